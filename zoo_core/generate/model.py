"""A model with its tokenizer on one process: text in, text out.

Shape legend: S tokens of a pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader, find_weights
from zoo_core.config import ModelConfig
from zoo_core.engine.build import from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.state import check_files, from_checkpoint
from zoo_core.engine.switch import AdapterSwitch, with_adapters_to_switch
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.choice import Sampling
from zoo_core.generate.decoding import Logits, decode
from zoo_core.generate.stream import TextStream
from zoo_core.peft.files import adapter_folder, base_and_adapter, fused_table, open_adapter
from zoo_core.peft.prefix_files import PrefixFiles, base_and_prefix
from zoo_core.plan import Request, compose
from zoo_core.plan.rules import room_for_samples
from zoo_core.registry import Architecture, find
from zoo_core.tokenizers import Tokenizer
from zoo_ops import Cache

__all__ = ["TextModel", "load_model"]


@dataclass(frozen=True)
class TextModel:
    """A model that continues text; made by `load_model`.

    Args:
        config: of the model.
        engine: the model on this process.
        tokenizer: its tokenizer.
        folder: where the weights came from.
        adapters: of the model, see `use`.
    """

    config: ModelConfig
    engine: Engine
    tokenizer: Tokenizer
    folder: Path
    adapters: AdapterSwitch

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

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with what the family adds by itself; an empty one is bos, or eos where there is
        no bos.

        Raises:
            ConfigError: the prompt is longer than the model's context, or its ids are not in the model's vocabulary.
        """
        tokenizer, config = self.tokenizer, self.config
        ids = tokenizer.encode(prompt, add_special_tokens=True)
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if not ids and first is not None:
            ids = [first]
        if not ids:
            raise ConfigError("the prompt is empty", "this tokenizer has no token to begin with", "give a prompt")
        if max(ids) >= config.vocab_size:
            raise ConfigError(
                "the tokenizer is not the model's",
                f"it gives the id {max(ids)}; the model has a vocabulary of {config.vocab_size}",
                "name the tokenizer that the model was trained with",
            )
        if len(ids) >= self.context:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens",
                f"the model's context is {self.context}, the new tokens included",
                "give a shorter prompt",
            )
        return ids

    def logits(self, room: int) -> Logits:
        """Return the model with a fresh cache for `room` tokens, as `decode` takes it."""
        cache = Cache(self.config.num_hidden_layers, 1, room)

        def following(ids: Sequence[int]) -> np.ndarray[Any, Any]:
            ids_1S = np.asarray([ids], np.int64)
            positions_1S = np.arange(cache.length, cache.length + len(ids), dtype=np.int64)[None]
            logits_1SV = self.engine.logits({"input_ids": ids_1S, "position_ids": positions_1S}, cache)
            return np.asarray(logits_1SV[0, -1].astype("float32").numpy())

        return following

    def ends(self) -> Collection[int]:
        """The ids that end a text: the tokenizer's, and those the model's configuration names."""
        own = self.config.eos_token_id
        named = own if isinstance(own, tuple) else (own,)
        return {token for token in (self.tokenizer.eos_id, *named) if token is not None}

    def sample(
        self, prompt: str, max_new_tokens: int = 64, sampling: Sampling | None = None, seed: int = 0
    ) -> Iterator[str]:
        """Yield the text that continues `prompt`, piece by piece; it ends at eos, or where the context is full.

        Args:
            sampling: how tokens are chosen; by default greedily.

        Raises:
            ConfigError: the prompt does not fit.
        """
        ids = self.encode(prompt)
        new = min(max_new_tokens, self.context - len(ids))
        stream = TextStream(self.tokenizer, tuple(ids))
        chosen = sampling or Sampling(temperature=0.0)
        vocab_size = min(self.config.vocab_size, self.tokenizer.vocab_size)
        tokens = decode(
            self.logits(len(ids) + new), ids, new, chosen, seed=seed, ends=self.ends(), vocab_size=vocab_size
        )
        for token in tokens:
            yield stream.add(token)
        yield stream.end()


def load_model(
    path: str | Path,
    tokenizer: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    adapters: Mapping[str, str | Path] | None = None,
    prefix: str | Path | None = None,
) -> TextModel:
    """Load a model for generation.

    Args:
        path: a zoo checkpoint, the output folder of a run (its newest checkpoint), a Hugging Face folder, or the name
            of a model whose weights are in `$ZOO_HOME` or the current folder.
        tokenizer: its file or folder; by default the one beside the weights.
        device: "cpu", "gpu" or "xpu".
        dtype: of the weights; on CPU "float32".
        adapters: folders of adapters of this model, by the names that `TextModel.use` takes; the first is in use. By
            default, where `path` is itself an adapter whose base is known, that one.
        prefix: folder of a prefix of this model, likewise; not together with adapters.

    Raises:
        ConfigError: adapters and a prefix are named.
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
    mesh = make_mesh(compose(Request(task="logits", device=device), found.architecture, config, str(folder)))
    check_files(folder, mesh, states=False)
    table = found.architecture.table(config)
    with Reader(folder, table, fused_table(found.architecture, config)) as reader:
        reader.check()
        if before is None:
            engine, switch = with_adapters_to_switch(mesh, found.architecture, config, reader, own, dtype)
        else:
            engine = _prefixed(mesh, found.architecture, config, reader, before, dtype)
            switch = AdapterSwitch(engine, {}, table, dtype)
    switch.use(next(iter(own), ""))
    beside = own.values() if before is None else (before,)
    places = (*beside, folder) if tokenizer is None else (tokenizer,)
    return TextModel(config, engine, _tokenizer(found.architecture, config, places, tokenizer is None), folder, switch)


def _prefixed(
    mesh: Mesh, architecture: Architecture, config: ModelConfig, reader: Reader, folder: Path, dtype: str
) -> Engine:
    """Build a model that is only run, behind the prefix in a folder."""
    with PrefixFiles(folder, architecture.pipe_layers(config), config) as files:
        source = from_both(from_checkpoint(reader, mesh, dtype), files.source(dtype=dtype))
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
