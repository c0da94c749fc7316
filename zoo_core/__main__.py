"""`python -m zoo_core` is `zoo`."""

from __future__ import annotations

import sys

from zoo_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
