"""Swagger UI and ReDoc, from files that are part of this package.

FastAPI's own pages load their scripts from a public CDN, which would then run next to an
authentication API with the visitor's cookies, and they start them with an inline script, which a
strict Content-Security-Policy forbids. These pages load nothing from elsewhere and run nothing
inline.
"""

from html import escape
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from app.api.assets import Assets, page
from app.api.routes import group

router = group(include_in_schema=False)

ASSETS = Assets(Path(__file__).resolve().parent.parent / "static")

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
    )


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    return _page(
        title=f"{request.app.title} - ReDoc",
        root="redoc",
        styles=("docs.css",),
        scripts=("redoc/redoc.standalone.js", "redoc-init.js"),
        allowed_styles=REDOC_STYLES,
    )


@router.get("/docs/assets/{version}/{name:path}")
async def asset(version: str, name: str) -> FileResponse:
    return ASSETS.answer(version, name)


def _page(
    *,
    title: str,
    root: str,
    styles: tuple[str, ...],
    scripts: tuple[str, ...],
    allowed_styles: tuple[str, ...] = (),
) -> HTMLResponse:
    """Every address is relative, so the page also works where a proxy adds a path in front."""
    assets = f"docs/assets/{ASSETS.version}"
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
    style_sources = " ".join(("style-src 'self'", *allowed_styles))
    return page(html, style_sources, "img-src 'self' data:")
