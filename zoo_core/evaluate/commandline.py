"""lm-evaluation-harness's own command line, with zoo's model known to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from zoo_core.errors import MachineError

__all__ = ["run_harness"]


def run_harness(words: Sequence[str]) -> None:
    """Run lm-eval with these words after its name.

    Nothing is fetched from a hub, unless HF_HUB_OFFLINE and HF_DATASETS_OFFLINE are set to 0: tasks read local files.

    Raises:
        MachineError: lm-eval is not installed.
        ZooError: of the model.
        SystemExit: of lm-eval's parser.
    """
    if find_spec("lm_eval") is None:
        raise MachineError(
            "lm-evaluation-harness is not installed", "there is no module lm_eval", 'pip install "zoo-core[eval]"'
        )
    # both are read when lm_eval is imported
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")
    from lm_eval.__main__ import cli_evaluate

    import zoo_core.evaluate.harness  # noqa: F401  registers the model

    given, sys.argv = sys.argv, ["lm_eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = given
