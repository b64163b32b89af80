"""Which other origins may call, with credentials. The outermost layer: errors carry it too."""

from secrets import token_hex

from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.errors import problem_response
from app.api.headers import REQUEST_ID, add_headers
from app.core.config import Settings
from app.core.refusals import Reason


class Cors(CORSMiddleware):
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.backend_cors_origins,
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID],
            expose_headers=["Retry-After", REQUEST_ID],
            max_age=600,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """As Starlette's, but with our headers, and a refusal as a problem that grants nothing."""
        request_id = token_hex(8)
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            response = Response(status_code=204, headers=grants(response))
        else:
            response = problem_response(
                Reason.PREFLIGHT_REFUSED, request_id, headers={"Vary": "Origin"}
            )
        add_headers(response.headers, request_id)
        return response


def grants(response: Response) -> dict[str, str]:
    return {
        name: value
        for name, value in response.headers.items()
        if name == "vary" or name.startswith("access-control-")
    }
