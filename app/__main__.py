"""`python -m app COMMAND`: everything that `make` does, also where there is no make."""

import sys

# Before anything is imported that an older Python cannot read.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("Python 3.11 or newer is needed, and this is " + sys.version.split()[0])

from app.cli import main

sys.exit(main())
