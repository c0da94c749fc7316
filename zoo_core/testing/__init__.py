"""The conformance kit: what every plugin must keep to, as a test class and as functions. Nothing imports it.

`class TestConformance(ArchConformance): family = "mynah"` runs it all; `zoo plugins check mynah` does so for a plugin
that is installed. Each check is a function too, which takes an `Architecture` (`contract.architecture(plugin)`) and
raises `AssertionError` with what differs and where, for tests of what is special to a family.

- T0, without paddle: `contract` (hooks, configurations, counts) and `tables` (rows, splitting, fusing, prefixes, what a
  reference implementation declares).
- T1, on one card: `golden` (another implementation's numbers), `pipeline` (the list is the model), `caches` (cached
  decoding), `folders` (Hugging Face folders), `ranks` and `shards` (the ranks' parts make the whole), and
  `tables.check_model_matches`.
- T2, in several processes: `runs` (training under other layouts, checkpoints resumed under another).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.testing.conformance import ArchConformance

__all__ = ["ArchConformance"]


def __getattr__(name: str) -> Any:
    """Import the test class, and pytest with it, when it is asked for."""
    if name == "ArchConformance":
        from zoo_core.testing.conformance import ArchConformance

        return ArchConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
