"""A model with its tokenizer on one process: text in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from zoo_core.checkpoint import Reader, find_weights
from zoo_core.config import ModelConfig
from zoo_core.engine.build import from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.state import check_files, from_checkpoint
from zoo_core.engine.switch import AdapterSwitch, with_adapters_to_switch
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.answering import TextBase
from zoo_core.generate.passes import EnginePasses
from zoo_core.peft.bases import other_bases
from zoo_core.peft.files import adapter_folder, base_and_adapter, fused_table, open_adapter
from zoo_core.peft.prefix_files import PrefixFiles, base_and_prefix
from zoo_core.plan import Request, compose
from zoo_core.plan.rules import room_for_samples
from zoo_core.registry import Architecture, find
from zoo_core.replay.one_row import OneRow, one_row
from zoo_core.tokenizers import Tokenizer

__all__ = ["TextModel", "load_model"]


@dataclass(frozen=True)
class TextModel(TextBase):
    """A model that continues text; made by `load_model`.

    Args:
        config: of the model.
        tokenizer: its tokenizer.
        folder: where the weights came from.
        engine: the model on this process.
        adapters: of the model, see `use`.
        notes: what a user should be told of what was loaded.
    """

    engine: Engine
    adapters: AdapterSwitch
    notes: tuple[str, ...] = ()

    def use(self, adapter: str = "") -> None:
        """Run with one of the adapters that `load_model` was given, by its name, or with none.

        Raises:
            ConfigError: there is none of this name.
        """
        self.adapters.use(adapter)

    @property
    def context(self) -> int:
        """Tokens of the longest text: behind a prefix, fewer where positions were learned."""
        if self.engine.prefix is None or not self.config.learned_positions:
            return self.config.max_position_embeddings
        return room_for_samples(self.config, self.engine.prefix.tokens)

    def passes(self) -> EnginePasses:
        """What reads tokens."""
        return EnginePasses(self.engine, self._one_row)

    @cached_property
    def _one_row(self) -> OneRow | None:
        return one_row(self.engine, self.context, lambda: self.adapters.name)


def load_model(
    path: str | Path,
    tokenizer: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    adapters: Mapping[str, str | Path] | None = None,
    prefix: str | Path | None = None,
    request: Request | None = None,
) -> TextModel:
    """Load a model for generation; where several processes hold it, all call this alike.

    Args:
        path: a zoo checkpoint, the output folder of a run (its newest checkpoint), a Hugging Face folder, or the name
            of a model whose weights are in `$ZOO_HOME` or the current folder.
        tokenizer: its file or folder; by default the one beside the weights.
        device: "cpu", "gpu" or "xpu".
        dtype: of the weights; on CPU "float32".
        adapters: folders of adapters of this model, by the names that `TextModel.use` takes; the first is in use. By
            default, where `path` is itself an adapter whose base is known, that one.
        prefix: folder of a prefix of this model, likewise; not together with adapters.
        request: degrees of the axes, and the number of processes; by default one process has the whole model.

    Raises:
        ConfigError: adapters and a prefix are named, or the model does not divide by the degrees.
        CheckpointError: no weights there, or they do not fit `config.json`; names the tensor.
        TokenizerError: no tokenizer there.
        UnknownModelError: no installed plugin has this architecture.
    """
    if adapters and prefix:
        raise ConfigError("an adapter and a prefix are named", "a model runs with one or the other", "leave one out")
    own: dict[str, Path] = {name: adapter_folder(at) for name, at in (adapters or {}).items()}
    base, before = base_and_prefix(path, prefix) if not own else (path, None)
    if not own and before is None:
        base, adapter = base_and_adapter(path)
        own = {"adapter": adapter} if adapter is not None else {}
    folder = find_weights(str(base), base if Path(base).is_dir() else None)
    found = find(str(folder))
    config = _as_adapted(found.architecture, found.config, own)
    wanted = replace(request or Request(), task="logits", device=device)
    mesh = make_mesh(compose(wanted, found.architecture, config, str(folder)))
    check_files(folder, mesh, states=False)
    beside = tuple(own.values()) if before is None else (before,)
    for at in beside:
        check_files(at, mesh, states=False)
    table = found.architecture.table(config)
    with Reader(folder, table, fused_table(found.architecture, config)) as reader:
        reader.check()
        if before is None:
            engine, switch = with_adapters_to_switch(mesh, found.architecture, config, reader, own, dtype)
        else:
            engine = _prefixed(mesh, found.architecture, config, reader, before, dtype)
            switch = AdapterSwitch(engine, {}, table, dtype)
    switch.use(next(iter(own), ""))
    places = (*beside, folder) if tokenizer is None else (tokenizer,)
    text = _tokenizer(found.architecture, config, places, tokenizer is None)
    return TextModel(config, text, folder, engine, switch, other_bases(folder, tuple(own.values()), before))


def _prefixed(
    mesh: Mesh, architecture: Architecture, config: ModelConfig, reader: Reader, folder: Path, dtype: str
) -> Engine:
    """Build a model that is only run, behind the prefix in a folder."""
    with PrefixFiles(folder, architecture.pipe_layers(config), config) as files:
        own = files.source(mesh.plan.tensor, mesh.place.tensor, dtype)
        source = from_both(from_checkpoint(reader, mesh, dtype), own)
        return Engine(mesh, architecture, config, source, dtype, prefix=files.spec)


def _as_adapted(architecture: Architecture, config: ModelConfig, adapters: Mapping[str, Path]) -> ModelConfig:
    """The configuration with projections fused or apart as the adapters have them.

    Raises:
        CheckpointError: one is damaged or of another model, or they do not go together.
    """
    for folder in adapters.values():
        files, config = open_adapter(architecture, config, folder)
        files.reader.close()
    return config


def _tokenizer(architecture: Architecture, config: ModelConfig, places: Sequence[Path], searched: bool) -> Tokenizer:
    """The tokenizer in the first of the places that has one: beside an adapter, else beside the weights."""
    for place in places[:-1]:
        try:
            return architecture.tokenizer(config, place)
        except TokenizerError:
            continue
    try:
        return architecture.tokenizer(config, places[-1])
    except TokenizerError as error:
        if not searched:
            raise
        raise TokenizerError(error.what, error.why, "name one with --tokenizer PATH") from error
