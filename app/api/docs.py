"""Swagger UI and ReDoc, from files that are part of this package.

FastAPI's own pages load their scripts from a public CDN, which would then run next to an
authentication API with the visitor's cookies, and they start them with an inline script, which a
strict Content-Security-Policy forbids. These pages load nothing from elsewhere and run nothing
inline (OWASP ASVS 5.0, 3.4.3), and nobody can frame them or hold their window (3.4.6, 3.4.8).
"""

from hashlib import sha256
from html import escape
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).resolve().parent.parent / "static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
# A request names a key of this table and never a path, so there is nothing to traverse or to list.
ASSETS = {
    path.relative_to(STATIC).as_posix(): path
    for path in sorted(STATIC.rglob("*"))
    if path.suffix in MEDIA_TYPES
}
# Changes with any byte of any file: what is cached under it stays right for ever.
ASSETS_VERSION = sha256(b"".join(path.read_bytes() for path in ASSETS.values())).hexdigest()[:16]

# ReDoc makes two kinds of <style> element. Naming them by hash allows these two texts and no
# other, where 'unsafe-inline' would allow whatever a hole in the page lets in. The first is the
# empty text: styled-components adds its rules through the CSSOM, which no policy governs. The
# second is the style sheet of perfect-scrollbar and changes when that does: the console of the
# browser then names the new one.
REDOC_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",
)


@router.get("/")
async def root() -> RedirectResponse:
    """Whoever opens the bare address on a laptop wants to see something."""
    return RedirectResponse("docs")


@router.get("/docs")
async def swagger_ui(request: Request) -> HTMLResponse:
    return _page(
        title=f"{request.app.title} - Swagger UI",
        root="swagger-ui",
        styles=("swagger-ui/swagger-ui.css", "docs.css"),
        scripts=("swagger-ui/swagger-ui-bundle.js", "swagger-init.js"),
        csp=_csp(),
    )


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    return _page(
        title=f"{request.app.title} - ReDoc",
        root="redoc",
        styles=("docs.css",),
        scripts=("redoc/redoc.standalone.js", "redoc-init.js"),
        csp=_csp(*REDOC_STYLES),
    )


@router.get("/docs/assets/{version}/{name:path}")
async def asset(version: str, name: str) -> FileResponse:
    path = ASSETS.get(name)
    # Serving today's file under another version would put it into caches there for a year.
    if path is None or version != ASSETS_VERSION:
        raise HTTPException(404)
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[path.suffix],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


def _page(
    *, title: str, root: str, styles: tuple[str, ...], scripts: tuple[str, ...], csp: str
) -> HTMLResponse:
    """Every address is relative, so the page also works where a proxy adds a path in front."""
    assets = f"docs/assets/{ASSETS_VERSION}"
    links = "\n".join(f'<link rel="stylesheet" href="{assets}/{name}">' for name in styles)
    sources = "\n".join(f'<script src="{assets}/{name}"></script>' for name in scripts)
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" type="image/png" href="{assets}/swagger-ui/favicon-32x32.png">
{links}
</head>
<body>
<div id="{root}"></div>
<noscript>This page needs JavaScript. <a href="openapi.json">openapi.json</a> does not.</noscript>
{sources}
</body>
</html>
"""
    headers = {"Content-Security-Policy": csp, "Cross-Origin-Opener-Policy": "same-origin"}
    return HTMLResponse(html, headers=headers)


def _csp(*styles: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            " ".join(("style-src 'self'", *styles)),
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )
