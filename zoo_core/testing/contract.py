"""T0: the hooks and the configurations of a plugin, without paddle."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import ModuleType

from zoo_core.config import ModelConfig
from zoo_core.layout import expand
from zoo_core.registry import Architecture, Registry

__all__ = ["architecture", "check_config", "check_paddle_free", "count_parameters"]

_PADDLE_FREE = """
import importlib, sys
plugin = importlib.import_module({package!r})
hook = plugin.tokenizer
importlib.import_module({package!r} + ".tokenizer")
if plugin.tokenizer is not hook:
    sys.exit("importing the submodule `tokenizer` replaces the hook of that name: import it before the hook is defined")
for entry in plugin.capabilities().models:
    plugin.tp_mappings(entry.config)
    plugin.pipe_layers(entry.config)
loaded = [name for name in ("paddle", "torch", "transformers") if name in sys.modules]
sys.exit("imports " + ", ".join(loaded) if loaded else 0)
"""


def architecture(plugin: ModuleType) -> Architecture:
    """Register `plugin` alone, as the registry does with an installed one.

    Raises:
        AssertionError: the registry refuses it; says why.
    """
    found = Registry({plugin.__name__: plugin})
    assert not found.broken, found.broken[0].reason
    return found.architectures[0]


def check_paddle_free(package: str) -> None:
    """Importing the plugin, listing its models and making their tables and pipe lists must not import paddle.

    Also that the hook `tokenizer` outlives the import of the submodule of the same name.
    """
    run = subprocess.run(
        [sys.executable, "-c", _PADDLE_FREE.format(package=package)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{package}: {run.stderr.strip()}"


def check_config(config: ModelConfig) -> None:
    """The configuration must survive a `config.json`, in the spelling of transformers 4 and of 5, and be hashable."""
    kind = type(config)
    text = json.dumps(config.to_hf())
    again = kind.from_hf(json.loads(text))
    assert again == config, f"config.json changes {_differing(config, again)}"
    assert hash(again) == hash(config), "equal configurations have different hashes"
    modern = json.loads(text)
    modern["dtype"] = modern.pop("torch_dtype")
    if "rope_theta" in modern:
        scaling = modern.pop("rope_scaling", None) or {"rope_type": "default"}
        modern["rope_parameters"] = {"rope_theta": modern.pop("rope_theta"), **scaling}
        modern["rope_parameters"].setdefault("rope_type", scaling.get("type"))
    again = kind.from_hf(modern)
    assert again == config, f"config.json of transformers 5 changes {_differing(config, again)}"


def _differing(first: ModelConfig, second: ModelConfig) -> str:
    names = [name for name, value in vars(first).items() if value != vars(second)[name]]
    return ", ".join(f"{name} from {vars(first)[name]!r} to {vars(second)[name]!r}" for name in names)


def count_parameters(arch: Architecture, config: ModelConfig) -> int:
    """Number of parameters by the table; a tied head and buffers do not count."""
    table = expand(arch.rules(config), config.num_hidden_layers)
    return sum(math.prod(rule.shape) for rule in table.values() if rule.single == rule.name and not rule.buffer)
