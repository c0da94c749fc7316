"""Whether what was trained beside a model was trained beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo_core.peft.digest import digest
from zoo_core.peft.files import adapter_spec
from zoo_core.peft.prefix import PrefixSpec
from zoo_core.peft.prefix_files import prefix_spec
from zoo_core.peft.spec import LoraSpec

__all__ = ["other_bases"]


def other_bases(folder: Path, adapters: Sequence[Path], prefix: Path | None = None) -> tuple[str, ...]:
    """Return what to say of adapters, or of a prefix, that were trained on other weights than those of `folder`.

    Checkpoints of zoo know a digest of their base; the folders of other libraries, and PEFT's, do not.
    """
    specs: list[tuple[Path, LoraSpec | PrefixSpec]] = [(at, adapter_spec(at)) for at in adapters]
    specs += [(prefix, prefix_spec(prefix))] if prefix is not None else []
    own = digest(folder) if any(spec.base_digest for _, spec in specs) else ""
    return tuple(
        f"{at} was trained on {spec.base}, whose files are not those of {folder}"
        for at, spec in specs
        if spec.base_digest and spec.base_digest != own
    )
