"""What a prediction needs, found and checked before any process starts. No paddle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.checkpoint import Reader, find_weights
from zoo_core.config import ModelConfig
from zoo_core.data.sft import Encoder, Lines
from zoo_core.errors import ConfigError, DataError, TokenizerError
from zoo_core.export.spec import Exported, read_exported
from zoo_core.generate import Rules
from zoo_core.peft.digest import digest
from zoo_core.peft.files import base_and_adapter, open_adapter
from zoo_core.peft.prefix_files import PrefixFiles, base_and_prefix
from zoo_core.plan import chosen_model
from zoo_core.plan.rules import room_for_samples
from zoo_core.predict.prompts import Lengths, Prompts
from zoo_core.predict.record import DIGEST
from zoo_core.registry import Found
from zoo_core.tokenizers import Tokenizer
from zoo_core.train.conversing import encoder_of
from zoo_core.train.generation import rules_of, sampling_of
from zoo_core.train.prepare import other_fusing
from zoo_core.train.vocabulary import run_tokenizer

__all__ = ["Model", "Ready", "find_model", "make_ready", "prompts_of", "stop_texts"]

_DECIDING = (
    "decode_strategy", "top_k", "top_p", "min_p", "temperature", "min_dec_len", "num_return_sequences",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "chat_template",
)  # fmt: skip
_BEAMS = ("num_beams", "length_penalty", "early_stopping")


@dataclass(frozen=True)
class Model:
    """What answers.

    Args:
        found: the model.
        config: its configuration, with projections fused or apart as the adapter has them.
        adapter, prefix: folder of what was trained beside it, if anything was.
        room: tokens of the longest text.
        virtual_tokens: of the prefix.
        exported: what `zoo export` wrote of it, where its programs answer.
    """

    found: Found
    config: ModelConfig
    adapter: Path | None = None
    prefix: Path | None = None
    room: int = 0
    virtual_tokens: int = 0
    exported: Exported | None = None


@dataclass(frozen=True)
class Ready:
    """All that answers are made from.

    Args:
        model: what answers.
        weights: its folder.
        prompts: what is asked.
        rules: how tokens are chosen and answers end.
        stop: texts that end an answer.
        dtype: of the weights.
        settings: all that decides what answers say, by name.
    """

    model: Model
    weights: Path
    prompts: Prompts
    rules: Rules
    stop: tuple[str, ...]
    dtype: str
    settings: Mapping[str, Any]


def find_model(arguments: Arguments) -> Model:
    """Return the model that the arguments name, which may be an adapter or a prefix that knows its base.

    Raises:
        UnknownModelError: no installed plugin has it.
        CheckpointError: the adapter or the prefix is not there, or of another model.
        ConfigError: both are named, or a scale is.
    """
    wanted, path = arguments.finetune, str(arguments.model.model_name_or_path)
    if arguments.generation.export_dir:
        return _exported(arguments, Path(arguments.generation.export_dir).expanduser())
    if wanted.lora_path and wanted.prefix_path:
        raise ConfigError("lora_path and prefix_path are given", "a model runs with one of them", "leave one out")
    if arguments.model.scale:
        raise ConfigError(
            f"--scale {arguments.model.scale} has no weights to predict with",
            "none are published at these sizes",
            "train one: zoo run sft --scale, and give its output folder as --model",
        )
    base, prefix = base_and_prefix(path, wanted.prefix_path) if not wanted.lora_path else (Path(path), None)
    base, adapter = base_and_adapter(path, wanted.lora_path) if prefix is None else (base, None)
    found, config = chosen_model(arguments.replace(model_name_or_path=str(base)))
    tokens = 0
    if adapter is not None:
        files, config = open_adapter(found.architecture, config, adapter)
        files.reader.close()
    if prefix is not None:
        with PrefixFiles(prefix, found.architecture.pipe_layers(config), config) as before:
            tokens = before.spec.tokens
    return Model(found, config, adapter, prefix, room_for_samples(config, tokens), tokens)


def _exported(arguments: Arguments, folder: Path) -> Model:
    """The model whose programs are in a folder.

    Raises:
        CheckpointError: `zoo export` wrote no such folder, or it is damaged.
        ConfigError: an adapter or a prefix is named, or more beams than its programs have rows.
    """
    spec = read_exported(folder)
    if arguments.finetune.lora_path or arguments.finetune.prefix_path:
        raise ConfigError(
            "an exported model takes no adapter and no prefix", "they are part of its programs, or it has none",
            "zoo export MODEL FOLDER --lora_path ADAPTER, or --prefix_path",
        )  # fmt: skip
    wanted = arguments.generation
    if wanted.decode_strategy == "beam_search" and wanted.num_beams > spec.batch_size:
        raise ConfigError(
            f"num_beams {wanted.num_beams}", f"the programs in {folder} have {spec.batch_size} rows",
            f"zoo export MODEL FOLDER --batch_size {wanted.num_beams}, or more",
        )  # fmt: skip
    found, config = chosen_model(arguments.replace(model_name_or_path=str(folder)))
    return Model(found, config, room=spec.max_length, exported=spec)


def stop_texts(arguments: Arguments) -> tuple[str, ...]:
    """Return the texts that end an answer.

    Raises:
        ConfigError: what should be a JSON list of texts is none.
    """
    text = arguments.generation.stop
    if not text or not text.lstrip().startswith("["):
        return (text,) if text else ()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise ConfigError(f"stop is {text}", "it begins as a list, and is no JSON list of texts", '["END", "User:"]')
    return tuple(found)


def prompts_of(arguments: Arguments, model: Model, weights: Path | None) -> Prompts:
    """Return the prompts of the file of questions.

    Args:
        weights: folder of the model; `None` where it is not there.

    Raises:
        ConfigError: no file is named, it is the file of answers, or the chat template cannot be used.
        DataError: it is missing, cannot be read, or is empty.
        TokenizerError: there is no tokenizer.
    """
    wanted, given = arguments.generation, arguments.given
    if not wanted.data_file:
        raise ConfigError(
            "no questions are named",
            'those of a file are answered: {"src": "..."}, {"messages": [...]} or {"prompt": "..."} in JSON lines',
            "--data_file FILE; zoo chat answers at the terminal, zoo sample continues one text",
        )
    file, output = Path(wanted.data_file).expanduser(), Path(wanted.output_file).expanduser()
    if not file.is_file():
        why = "it is a folder" if file.is_dir() else "no such file"
        raise DataError(f"no questions at {file}", why, "--data_file FILE, with one JSON object a line")
    if output.exists() and output.samefile(file):
        raise ConfigError(f"answers would replace the questions in {file}", "", "change --output_file")
    tokenizer = _tokenizer(arguments, model, weights)
    answer = wanted.max_dec_len
    if "tgt_length" in given and "max_dec_len" not in given:
        answer = arguments.data.tgt_length
    total = min(model.room, arguments.data.max_length if "max_length" in given else model.room)
    lengths = Lengths(arguments.data.src_length, min(answer, total), total)
    form = encoder_of(arguments, tokenizer, model.config.vocab_size).form
    encoder = Encoder(tokenizer, lengths.limits, form, model.config.vocab_size)
    return Prompts(Lines([file]), encoder, lengths)


def _tokenizer(arguments: Arguments, model: Model, weights: Path | None) -> Tokenizer:
    """The tokenizer that is named, else the one beside the adapter, the prefix or the weights."""
    architecture = model.found.architecture
    if not arguments.model.tokenizer_name_or_path:
        for place in (model.adapter, model.prefix):
            try:
                if place is not None:
                    return architecture.tokenizer(model.config, place)
            except TokenizerError:
                continue
    tokenizer = run_tokenizer(arguments, model.found, weights)
    if tokenizer is None:
        raise TokenizerError(
            "there is no tokenizer", "questions are text, and none lies beside the model", "--tokenizer PATH names one"
        )
    return tokenizer


def make_ready(arguments: Arguments, model: Model, dtype: str | None, look: bool = True) -> tuple[Ready, int, int]:
    """Find weights, tokenizer and questions; returns also how many prompts are cut, and the tokens of the longest.

    Args:
        dtype: of the weights; `None` as they are stored.
        look: read every line of the questions; without it, nothing is known to be cut.

    Raises:
        CheckpointError: weights are missing, incomplete or of another model.
        DataError: a line asks nothing, named by file and number.
        ConfigError: arguments contradict each other.
        TokenizerError: there is no tokenizer, or it cannot be read.
    """
    _check(arguments)
    config = model.config
    weights = _weights(arguments, model)
    prompts = prompts_of(arguments, model, weights)
    shortened, longest = prompts.look() if look else (0, 0)
    dtype = model.exported.dtype if model.exported is not None else _checked(model, weights, dtype)
    whole = Encoder(prompts.encoder.tokenizer, None, prompts.encoder.form, config.vocab_size)
    rules = replace(rules_of(arguments, whole, config), sampling=sampling_of(arguments))
    beside = model.adapter or model.prefix
    beams = {name: arguments.value(name) for name in _BEAMS if arguments.generation.decode_strategy == "beam_search"}
    settings = {
        "model": str(weights.absolute()),
        f"{DIGEST}model": digest(weights),
        "adapter or prefix": str(beside.absolute()) if beside is not None else "",
        f"{DIGEST}adapter or prefix": digest(beside) if beside is not None else "",
        "data_file": str(arguments.generation.data_file),
        f"{DIGEST}data_file": prompts.lines.digest,
        f"{DIGEST}tokenizer or chat template": _digest(arguments, prompts.encoder.tokenizer),
        "src_length": prompts.lengths.source,
        "max_dec_len": prompts.lengths.answer,
        "max_length": prompts.lengths.total,
        "form": prompts.encoder.form,
        **{name: arguments.value(name) for name in _DECIDING},
        **beams,
        "seed": arguments.training.seed,
        "dtype": dtype,
    }
    return Ready(model, weights, prompts, rules, stop_texts(arguments), dtype, settings), shortened, longest


def _weights(arguments: Arguments, model: Model) -> Path:
    """The folder of the weights."""
    if model.exported is not None:
        return Path(str(arguments.generation.export_dir)).expanduser()
    path = model.found.path if arguments.model.model_path is None else None
    return find_weights(str(path or model.found.name), path or arguments.model.model_path)


def _checked(model: Model, weights: Path, dtype: str | None) -> str:
    """Refuse weights that do not fit the model; returns their type in the run."""
    found, config = model.found, model.config
    table = found.architecture.table(config)
    with Reader(weights, table, other_fusing(found, config)) as reader:
        reader.check()
        return dtype or reader.dtype_of(next(iter(table)))


def _digest(arguments: Arguments, tokenizer: Tokenizer) -> str:
    """Of the files that say how text is written down."""
    template = Path(arguments.data.chat_template or "").expanduser()
    found = hashlib.blake2b(digest_size=16)
    for file in (*tokenizer.files, *((template,) if template.is_file() else ())):
        found.update(file.read_bytes())
    return found.hexdigest()


def _check(arguments: Arguments) -> None:
    """Refuse what contradicts itself."""
    wanted, sampling = arguments.generation, sampling_of(arguments)
    several = wanted.num_return_sequences
    if wanted.decode_strategy == "beam_search":
        if several > wanted.num_beams:
            raise ConfigError(
                f"num_return_sequences {several} of {wanted.num_beams} beams", "a beam gives one answer",
                f"--num_beams {several}, or more",
            )  # fmt: skip
        if wanted.stop:
            raise ConfigError("stop with beam_search", "beams end at tokens, not at texts", "leave stop out")
    elif wanted.num_beams > 1:
        raise ConfigError(
            f"num_beams {wanted.num_beams} with {wanted.decode_strategy}", "only beam_search has beams",
            "--decode_strategy beam_search",
        )  # fmt: skip
    elif several > 1 and sampling.is_greedy:
        raise ConfigError(
            f"num_return_sequences {several} with greedy decoding",
            "each answer would be the same: greedy_search, top_k 1 and temperature 0 draw nothing",
            "--decode_strategy sampling --top_k 0, with top_p or temperature; or leave it out",
        )
    most = wanted.max_dec_len
    if "tgt_length" in arguments.given and "max_dec_len" not in arguments.given:
        most = arguments.data.tgt_length
    if wanted.min_dec_len > most:
        raise ConfigError(
            f"min_dec_len {wanted.min_dec_len} is above max_dec_len {most}", "no answer has as many tokens", "lower it"
        )
