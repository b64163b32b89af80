"""An application built on this project that lets holders of a valid token in without asking the
database: `python -m bench.ours_check PORT`.
"""

import sys

from app.api.dependencies import TokenHolder
from app.main import app
from app.server import serve


@app.get("/check")
async def check(holder: TokenHolder) -> dict[str, str]:
    return {"user": str(holder.user_id)}


if __name__ == "__main__":
    serve("127.0.0.1", int(sys.argv[1]), workers=1, reload=False)
