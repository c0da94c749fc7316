"""Which layer of the pipeline list each parameter belongs to, known from names alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zoo_core.errors import PluginError

__all__ = ["labels", "owners"]


def owners(names: Iterable[str], prefixes: Sequence[str], blocks: Sequence[bool]) -> dict[str, int]:
    """Return the number of the layer that holds each parameter: the one with the longest prefix of its name.

    The embedding and the final norm may both have the model's own prefix (`llama`). Then table order decides: before
    the first block it is the first such layer, after it the last.

    Args:
        names: single-card names in table order.
        prefixes, blocks: for each layer, its prefix and whether it is a decoder block.

    Raises:
        PluginError: a parameter lies under no layer's prefix.
    """
    by_prefix: dict[str, list[int]] = {}
    for index, prefix in enumerate(prefixes):
        by_prefix.setdefault(prefix, []).append(index)
    found, after_blocks = {}, False
    for name in names:
        words = name.split(".")
        candidates = next(
            (by_prefix[p] for n in range(len(words), -1, -1) if (p := ".".join(words[:n])) in by_prefix), None
        )
        if candidates is None:
            raise PluginError(
                f"parameter {name} belongs to no layer of the pipeline list",
                "no layer's prefix begins its name",
                "add the layer to pipe_layers(), or correct its prefix",
            )
        found[name] = candidates[-1 if after_blocks else 0]
        after_blocks = after_blocks or blocks[found[name]]
    return found


def labels(owned: Mapping[str, int], prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return a short name for each layer: the module of its first parameter (`embed_tokens`), or its prefix's end.

    A layer that is one of a numbered list but no decoder block (multi-token prediction) is called by its number.
    """
    first: dict[int, str] = {}
    for name, layer in owned.items():
        first.setdefault(layer, name)
    found = []
    for index, prefix in enumerate(prefixes):
        words = prefix.split(".")
        if len(words) > 1 and words[-1].isdigit():
            found.append(".".join(words[-2:]))
            continue
        inside = first.get(index, "").removeprefix(prefix).strip(".").rpartition(".")[0]
        found.append(inside or prefix.rpartition(".")[2] or f"layer {index}")
    return tuple(found)
