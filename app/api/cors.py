"""Which other origins may call, with credentials. Around everything that answers, errors too."""

from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.envelope import REQUEST_ID
from app.api.problems import problem_response
from app.core.config import Settings
from app.core.logs import current_request_id
from app.core.refusals import Reason


class Cors(CORSMiddleware):
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.backend_cors_origins,
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID],
            expose_headers=["Retry-After", "RateLimit", "RateLimit-Policy", REQUEST_ID],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Most requests come from no page elsewhere, and need no headers for one."""
        from_a_page = any(name == b"origin" for name, _ in scope.get("headers", ()))
        await (super().__call__ if from_a_page else self.app)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """As Starlette's, but empty; and a refusal is a problem, and grants nothing."""
        response = super().preflight_response(request_headers)
        granted = response.status_code == 200
        headers = {
            name: value
            for name, value in response.headers.items()
            if name == "vary" or (granted and name.startswith("access-control-"))
        }
        if granted:
            return Response(status_code=204, headers=headers)
        return problem_response(Reason.PREFLIGHT_REFUSED, current_request_id.get(), headers=headers)
