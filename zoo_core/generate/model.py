"""A model with its tokenizer on one process: text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo_core.checkpoint import Reader, find_weights
from zoo_core.config import ModelConfig
from zoo_core.engine.build import from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.state import check_files, from_checkpoint
from zoo_core.engine.switch import AdapterSwitch, with_adapters_to_switch
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.choice import Sampling, no_numbers
from zoo_core.generate.passes import EnginePasses
from zoo_core.generate.pool import Pool
from zoo_core.generate.rules import Row, Rules
from zoo_core.generate.texts import AnswerText
from zoo_core.peft import LoraSpec, PrefixSpec
from zoo_core.peft.digest import digest
from zoo_core.peft.files import adapter_folder, adapter_spec, base_and_adapter, fused_table, open_adapter
from zoo_core.peft.prefix_files import PrefixFiles, base_and_prefix, prefix_spec
from zoo_core.plan import Request, compose
from zoo_core.plan.rules import room_for_samples
from zoo_core.registry import Architecture, find
from zoo_core.tokenizers import ChatTokenizer, Message, Tokenizer
from zoo_core.tokenizers.chat import no_chat

__all__ = ["TextModel", "load_model"]

_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclass(frozen=True)
class TextModel:
    """A model that continues text; made by `load_model`.

    Args:
        config: of the model.
        engine: the model on this process.
        tokenizer: its tokenizer.
        folder: where the weights came from.
        adapters: of the model, see `use`.
        notes: what a user should be told of what was loaded.
    """

    config: ModelConfig
    engine: Engine
    tokenizer: Tokenizer
    folder: Path
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

    def ends(self) -> frozenset[int]:
        """The ids that end a text: the tokenizer's, and those the model's configuration names."""
        own = self.config.eos_token_id
        named = own if isinstance(own, tuple) else (own,)
        return frozenset(token for token in (self.tokenizer.eos_id, *named) if token is not None)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation as the family writes it; after a user's message they ask for the answer.

        Raises:
            TokenizerError: the family has no form for conversations, or not for this one.
        """
        return _chat(self.tokenizer, messages)

    @cached_property
    def _chat_end(self) -> int | None:
        try:
            asked, answered = (_chat(self.tokenizer, _PROBE[:count]) for count in (1, 2))
        except TokenizerError:
            return None
        answer = answered[len(asked) :] if answered[: len(asked)] == asked else []
        # A form may write white space behind its end token, or no end at all.
        special = [token for token in answer if not self.tokenizer.decode([token], skip_special_tokens=True)]
        return special[-1] if special else None

    def chat_ends(self) -> frozenset[int]:
        """The ids that end an answer in a conversation: the token that the family's form has behind one, and `ends`."""
        return self.ends() if self._chat_end is None else self.ends() | {self._chat_end}

    def rules(self, sampling: Sampling, *, chat: bool = False, **more: Any) -> Rules:
        """Return what holds for a row of this model.

        Args:
            chat: the row is a conversation.
            more: as `Rules` takes it.
        """
        ends = self.chat_ends() if chat else self.ends()
        vocab_size = min(self.config.vocab_size, self.tokenizer.vocab_size)
        return Rules(sampling, **{"ends": ends, "vocab_size": vocab_size, **more})

    def pool(self, slots: int, room: int | None = None, chunk: int = 512) -> Pool:
        """Return a pool of rows over this model.

        Args:
            slots: most rows at a time.
            room: most tokens of a row; by default the model's context.
            chunk: as `Pool` takes it.
        """
        return Pool(EnginePasses(self.engine), slots, self.context if room is None else room, chunk)

    def sample(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the text that continues `prompt`, piece by piece; it ends at eos, or where the context is full.

        Args:
            sampling: how tokens are chosen; by default greedily.
            stop: texts that end it, too; they are no part of it.

        Raises:
            ConfigError: the prompt does not fit, or the model's logits are not numbers.
        """
        ids = self.encode(prompt)
        yield from self.answer(ids, self.rules(sampling or Sampling(temperature=0.0)), max_new_tokens, seed, stop)

    def answer(
        self, ids: Sequence[int], rules: Rules, max_new_tokens: int, seed: int = 0, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yield the text that follows `ids`, piece by piece, see `sample`."""
        new = min(max_new_tokens, self.context - len(ids))
        pool, text = self.pool(1, len(ids) + new), AnswerText(self.tokenizer, ids, stop)
        ticket, going = pool.add(Row(ids, new, seed), rules), True
        while going:
            step = pool.step().get(ticket)
            if step is None:
                continue
            if step.finish == "error":
                raise no_numbers()
            if step.token is not None:
                yield text.add(step.token)
            going = not step.finish and not text.stopped
        yield text.end()


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    if not isinstance(tokenizer, ChatTokenizer):
        raise no_chat(tokenizer)
    return tokenizer.chat(messages)


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
    return TextModel(config, engine, text, folder, switch, _other_bases(folder, tuple(own.values()), before))


def _other_bases(folder: Path, adapters: Sequence[Path], prefix: Path | None) -> tuple[str, ...]:
    """What to say of adapters, or of a prefix, that were trained on other weights than those of `folder`."""
    specs: list[tuple[Path, LoraSpec | PrefixSpec]] = [(at, adapter_spec(at)) for at in adapters]
    specs += [(prefix, prefix_spec(prefix))] if prefix is not None else []
    own = digest(folder) if any(spec.base_digest for _, spec in specs) else ""
    return tuple(
        f"{at} was trained on {spec.base}, whose files are not those of {folder}"
        for at, spec in specs
        if spec.base_digest and spec.base_digest != own
    )


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
