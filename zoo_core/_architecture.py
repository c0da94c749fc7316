"""One family as the rest of the core sees it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import _contract, layout
from zoo_core.capabilities import Capabilities
from zoo_core.config import ModelConfig
from zoo_core.pipeline import PipeLayer
from zoo_core.quantized import with_quantised

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["Architecture"]


class Architecture:
    """One family: its capabilities, and the other four hooks routed to the plugin that owns it.

    `folder` is that of the plugin's package, where its evidence lies; `None` for a plugin that is no package.
    """

    def __init__(
        self,
        name: str,
        capabilities: Capabilities,
        hooks: _contract.Hooks,
        source: str,
        version: str,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.distribution = source
        self.version = version
        self.folder = folder
        self._hooks = hooks

    def __repr__(self) -> str:
        return f"Architecture({self.family!r}, plugin {self.name!r})"

    @property
    def family(self) -> str:
        """The family's short name."""
        return self.capabilities.family

    def build_model(self, config: ModelConfig) -> Any:
        """Return the single-card model, an `nn.Layer`; imports paddle."""
        return self._hooks.call("build_model", config=config)

    def rules(self, config: ModelConfig) -> tuple[layout.Rule, ...]:
        """Return the parameter table as the plugin wrote it, with `*` in its names."""
        return tuple(self._hooks.call("tp_mappings", config=config))

    def table(self, config: ModelConfig) -> dict[str, layout.Rule]:
        """Return the parameter table with one row a parameter, by single-card name; of integers where quantised."""
        table = layout.expand(self.rules(config), config.num_hidden_layers)
        return table if config.quantization_config is None else with_quantised(table, config.quantization_config)

    def parameter_count(self, config: ModelConfig) -> int:
        """Return the elements of all trained parameters, a tied one once, without writing every row out."""
        total = 0
        for rule in self.rules(config):
            if rule.buffer or rule.single != rule.name:
                continue
            stars = rule.name.count("*")
            times = len(rule.layers) if rule.layers is not None else config.num_hidden_layers
            experts = len(rule.experts or ())
            total += prod(rule.shape) * (times if stars else 1) * (experts if stars == 2 else 1)
        return total

    def pipe_layers(self, config: ModelConfig) -> tuple[PipeLayer, ...]:
        """Return the layers of the model in order."""
        return tuple(self._hooks.call("pipe_layers", config=config))

    def tokenizer(self, config: ModelConfig, path: Path | None) -> Tokenizer:
        """Return the family's tokenizer from the files in `path`."""
        return self._hooks.call("tokenizer", config=config, path=path)  # type: ignore[no-any-return]
