"""`python -m zoo_core` is `zoo`; also the file that `paddle.distributed.launch` starts as every worker."""

from __future__ import annotations

import os
import sys

# Started by its path, as workers are, Python looks in this folder first: `tokenizers` would be found here.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != _HERE]

from zoo_core.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
