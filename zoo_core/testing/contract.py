"""T0: the hooks and the configurations of a plugin, without paddle."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from zoo_core.config import ModelConfig
from zoo_core.errors import TokenizerError
from zoo_core.known import KNOWN
from zoo_core.layout import expand
from zoo_core.registry import Architecture, Registry
from zoo_core.testing.tables import check_table

__all__ = [
    "architecture",
    "check_config",
    "check_missing_tokenizer",
    "check_model",
    "check_paddle_free",
    "check_promised",
    "count_parameters",
]

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


def check_promised(arch: Architecture, *names: str) -> None:
    """The family has the models that the core names for it (`zoo_core.known`), and `names`."""
    promised = {name for known in KNOWN if known.family == arch.family for name in known.models}
    missing = (promised | set(names)) - {entry.name for entry in arch.capabilities.models}
    assert not missing, f"no entry for {sorted(missing)}"


def check_model(arch: Architecture, name: str) -> None:
    """A named model's configuration survives a `config.json` and its table is sound, as it is and at every scale.

    At scale `small` it has 10 to 20 million parameters.
    """
    (config,) = (entry.config for entry in arch.capabilities.models if entry.name == name)
    scaled = {scale: config.replace(**sizes) for scale, sizes in arch.capabilities.scales.items()}
    for each in (config, *scaled.values()):
        check_config(each)
        check_table(arch, each)
    count = count_parameters(arch, scaled["small"])
    assert 10e6 < count < 20e6, f"{name} has {count} parameters at scale small"


def check_missing_tokenizer(arch: Architecture, folder: Path, wanted: str) -> None:
    """For any model, the error names the file `wanted` without a folder, and the `folder` if it is an empty one."""
    places = ((None, wanted), (folder, str(folder)))
    for entry, (place, said) in itertools.product(arch.capabilities.models, places):
        try:
            arch.tokenizer(entry.config, place)
        except TokenizerError as error:
            assert said in str(error), f"{error} does not name {said}"
        else:
            raise AssertionError(f"{entry.name} has a tokenizer from {place}")


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
