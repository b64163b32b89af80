"""What the queue's gate would say, before a task is made of the request: a third of the time.

app/protocol.py finds it in the state of the lifespan. With another server, the gate does it all.
"""

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from app.api.client import client_address
from app.api.envelope import add_headers, request_id_of
from app.api.problems import problem_response
from app.api.queued import Queue
from app.core import metrics
from app.core.config import Settings
from app.core.refusals import Reason


class Shortcut:
    def __init__(self, queue: Queue, settings: Settings) -> None:
        self.queue = queue
        self.trusted_proxies = settings.trusted_proxies
        self.allowed_origins = frozenset(settings.backend_cors_origins)

    def answer(self, method: bytes, target: bytes, scope: Scope) -> Response | None:
        """None: the application has to be asked, as for origins that need headers of CORS.

        scope: its client and headers.
        """
        route = self.queue.routes.get(target.decode("latin-1")) if method == b"POST" else None
        if route is None:
            return None
        headers = Headers(scope=scope)
        if headers.get("origin") in self.allowed_origins:
            return None
        if not self.queue.is_full():
            client = client_address(scope, headers, self.trusted_proxies)
            if not self.queue.is_full(client):
                return None
        self.queue.count()
        request_id = request_id_of(headers)
        response = problem_response(Reason.BUSY, request_id)
        add_headers(response.raw_headers, request_id)
        metrics.count_request("POST", route.path_format, response.status_code, 0)
        return response
