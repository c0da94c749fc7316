"""What a device can do: plain data, one JSON file a device, and what `zoo calibrate` writes for another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo_core.errors import ConfigError, nearest

__all__ = ["Hardware", "default_hardware", "hardware", "hardware_names"]

_FOLDER = Path(__file__).parent
_TYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Hardware:
    """A device, its links, and the share of each that training reaches; a CPU is one device that processes share.

    Args:
        name: what `--hardware` calls it.
        device: "gpu" or "cpu".
        memory: bytes of a device.
        reserve: bytes of it that no tensor can have: of the driver, of collectives, lost between blocks. PaddleNLP's
            published runs have 2 to 3 GB of them.
        flops: dense peak of matrix products in FLOP/s, by element type; the types it lacks are absent.
        bandwidth: bytes a second between the device and its memory.
        link: bytes a second, each way, between a device and the others of its machine.
        network: likewise to other machines.
        latency: seconds that a collective takes however small it is.
        devices: of a machine.
        matmul: share of `flops` that the matrix products of training reach.
        stream: share of `bandwidth` that passes over activations and states reach.
        links: share of `link` and `network` that collectives reach.
        process: bytes that a process holds before it has a model.
        note: where the numbers are from.
    """

    name: str
    device: str
    memory: int
    flops: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    devices: int
    matmul: float
    stream: float = 0.8
    links: float = 0.75
    latency: float = 2e-5
    process: int = 0
    reserve: int = 0
    note: str = ""

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products of an element type.

        Raises:
            ConfigError: the device has none.
        """
        if dtype not in self.flops:
            has = ", ".join(self.flops)
            raise ConfigError(f"{self.name} does not compute in {dtype}", f"it has {has}", "choose another precision")
        return self.flops[dtype]

    def shared_by(self, processes: int) -> Hardware:
        """What each of the processes of a machine has: its own device, or its part of the CPU."""
        if self.device != "cpu" or processes <= 1:
            return self
        return replace(
            self,
            memory=self.memory // processes,
            flops={name: peak / processes for name, peak in self.flops.items()},
            bandwidth=self.bandwidth / processes,
        )

    def near(self, world: int, nodes: int) -> int:
        """Processes of one machine: as the request has machines, else as many as a machine has devices."""
        if nodes > 1:
            return world // nodes
        return world if self.device == "cpu" else self.devices

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with what `hardware` reads."""
        return asdict(self)


def hardware_names() -> tuple[str, ...]:
    """Return the names of the descriptions that zoo has."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def hardware(name: str) -> Hardware:
    """Return a description by name, or from a JSON file of `zoo calibrate`.

    Raises:
        ConfigError: there is no such description, or the file is none.
    """
    path = Path(name) if name.endswith(".json") else _FOLDER / f"{name.lower()}.json"
    if not path.is_file():
        names = hardware_names()
        near = nearest(name.lower(), names)
        todo = f"did you mean {near}?" if near else "zoo calibrate describes the device of this machine"
        raise ConfigError(f"no hardware {name!r}", "zoo describes " + ", ".join(names), todo)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Hardware(**{**content, "name": content.get("name", path.stem)})
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} describes no hardware", str(error), "zoo calibrate writes such a file") from None
    _check(found, path)
    return found


def _check(found: Hardware, path: Path) -> None:
    sizes = {name: getattr(found, name) for name in ("memory", "bandwidth", "link", "network", "devices", "matmul")}
    if not isinstance(found.flops, Mapping) or not set(found.flops) <= set(_TYPES):
        raise ConfigError(f"{path}: flops is {found.flops!r}", f"it maps {', '.join(_TYPES)} to FLOP/s", "")
    sizes |= {f"flops of {name}": value for name, value in found.flops.items()}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{path}: {name} is {value!r}", "it must be a number above 0", "")


def default_hardware(device: str) -> Hardware:
    """Return what a plan for "cpu" or "gpu" is predicted on when nothing is said."""
    return hardware("cpu" if device == "cpu" else "a100-80g")
