"""Names of files and of stored tensors in a zoo checkpoint."""

from __future__ import annotations

__all__ = ["ADAPTERS", "BEST", "FORMAT", "GROUPS", "LATEST", "MANIFEST", "PREFIX", "STATE", "stored_as"]

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "trainer_state.json"
LATEST = "latest"
BEST = "best"
ADAPTERS = "lora"
PREFIX = "prefix"
GROUPS = {
    "model": "weights", ADAPTERS: "adapters", PREFIX: "prefix", "optimizer": "optimizer states",
    "master_weights": "master weights",
}  # fmt: skip


def stored_as(role: str, name: str) -> tuple[str, str]:
    """Return the file group and the tensor name of parameter `name` in `role`.

    `weight` and `master` are named as the parameter; every other role (`moment1`, ...) is an optimizer state
    `NAME/ROLE`; a role `GROUP:weight` or `GROUP:ROLE` is kept in files of its own (adapters, a prefix).
    """
    group, _, own = role.rpartition(":")
    if own == "weight":
        return group or "model", name
    if own == "master":
        return f"{group}_master_weights" if group else "master_weights", name
    return f"{group}_optimizer" if group else "optimizer", f"{name}/{own}"
