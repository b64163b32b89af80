"""What our own pages are made of: files of this package, and a policy that allows nothing else."""

from hashlib import sha256
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from starlette.types import Receive, Scope, Send

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}


class Assets:
    """The style sheets, scripts and pictures in a folder.

    A request names a key of a table and never a path, so there is nothing to traverse or to list.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.suffix in MEDIA_TYPES
        }
        # Changes with any byte of any file: what is cached under it stays right for ever.
        content = b"".join(path.read_bytes() for path in self.files.values())
        self.version = sha256(content).hexdigest()[:16]

    def answer(self, version: str, name: str) -> FileResponse:
        path = self.files.get(name)
        # Serving today's file under another version would put it into caches there for a year.
        if path is None or version != self.version:
            raise HTTPException(404)
        return Whole(
            path,
            media_type=MEDIA_TYPES[path.suffix],
            headers={
                "Cache-Control": "public, max-age=31536000, immutable",
                "Accept-Ranges": "none",
            },
        )


class Whole(FileResponse):
    """Whatever part is asked for: that of a broken Range would be refused in plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def page(html: str, *directives: str) -> HTMLResponse:
    """directives: what the page needs besides its own scripts and what they ask this service.

    Nothing runs inline (OWASP ASVS 5.0, 3.4.3), nobody can frame the page or hold its window
    (3.4.6, 3.4.8), and no form leaves by itself, which would put a password into an address.
    """
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        *directives,
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return HTMLResponse(html, headers=headers)
