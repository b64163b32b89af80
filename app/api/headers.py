"""The headers that every response carries, unless it sets its own."""

from starlette.datastructures import MutableHeaders

REQUEST_ID = "X-Request-ID"

EVERYWHERE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
}


def add_headers(headers: MutableHeaders, request_id: str) -> None:
    headers[REQUEST_ID] = request_id
    for name, value in EVERYWHERE.items():
        headers.setdefault(name, value)
