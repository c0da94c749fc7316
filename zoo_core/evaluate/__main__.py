"""`python -m zoo_core.evaluate` is `lm_eval` with zoo's model known to it."""

from __future__ import annotations

import sys

from zoo_core.errors import ZooError
from zoo_core.evaluate.commandline import run_harness

if __name__ == "__main__":
    try:
        run_harness(sys.argv[1:])
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
