"""How a run answers questions when it evaluates by generating, by its arguments. No paddle."""

from __future__ import annotations

from typing import Any

from zoo_core.arguments import ANSWERING, Arguments
from zoo_core.config import ModelConfig
from zoo_core.data.sft import BadLine, Encoder
from zoo_core.errors import ConfigError
from zoo_core.generate import Rules, Sampling
from zoo_core.train.scores import check_scorers

__all__ = ["GENERATED", "GENERATED_DEV", "beams_of", "check_generation", "generates", "rules_of", "sampling_of"]

GENERATED = "generated_output.json"
"""The answers of the last evaluation: to the test part's questions where these are answered, else to the dev part's."""

GENERATED_DEV = "generated_output_dev.json"
"""The answers to the dev part's questions, where the test part's are answered too."""

_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


def generates(arguments: Arguments) -> bool:
    """Whether evaluations let the model answer."""
    return arguments.task in ANSWERING and arguments.data.eval_with_do_generation


def check_generation(arguments: Arguments) -> None:
    """Refuse what cannot be evaluated by generating, before any process starts.

    Raises:
        ConfigError: arguments contradict each other, ask for what there is not, or a library is missing.
    """
    data, generation, training = arguments.data, arguments.generation, arguments.training
    if data.save_generation_output and not data.eval_with_do_generation:
        raise ConfigError(
            "save_generation_output without eval_with_do_generation",
            "it writes down the answers that an evaluation generates",
            "set eval_with_do_generation, or leave it out",
        )
    if not data.eval_with_do_generation:
        return
    if not (training.do_eval or training.do_predict):
        raise ConfigError(
            "eval_with_do_generation without an evaluation",
            "neither do_eval, an evaluation_strategy nor do_predict is set",
            "--do_eval evaluates on dev.json, --do_predict on test.json",
        )
    if generation.decode_strategy == "beam_search":
        _check_beams(arguments)
    if generation.min_dec_len > generation.max_dec_len:
        raise ConfigError(
            f"min_dec_len {generation.min_dec_len} is above max_dec_len {generation.max_dec_len}",
            "no answer has as many tokens",
            "lower it",
        )
    draws = generation.decode_strategy != "beam_search"
    if draws and generation.num_return_sequences > 1 and sampling_of(arguments).is_greedy:
        raise ConfigError(
            f"num_return_sequences {generation.num_return_sequences} with greedy decoding",
            "each answer would be the same: greedy_search, top_k 1 and temperature 0 draw nothing",
            "--decode_strategy sampling --top_k 0, with top_p or temperature; or leave it out",
        )
    check_scorers()


def _check_beams(arguments: Arguments) -> None:
    generation, parallel = arguments.generation, arguments.parallel
    if generation.num_return_sequences > generation.num_beams:
        raise ConfigError(
            f"num_return_sequences {generation.num_return_sequences} of {generation.num_beams} beams",
            "a beam gives one answer",
            f"--num_beams {generation.num_return_sequences}, or more",
        )
    if parallel.sharding_stage == 3 or parallel.ep > 1:
        raise ConfigError(
            "decode_strategy beam_search with sharding stage3 or experts apart",
            "replicas hold parts of each other's weights, and their beams end at different passes",
            "take greedy_search, or sampling",
        )


def beams_of(arguments: Arguments) -> dict[str, Any]:
    """What `zoo_core.generate.beam_search` is told beside the rules; nothing where no beams are searched."""
    wanted = arguments.generation
    if wanted.decode_strategy != "beam_search":
        return {}
    return {"beams": wanted.num_beams, "length_penalty": wanted.length_penalty, "early_stopping": wanted.early_stopping}


def sampling_of(arguments: Arguments) -> Sampling:
    """Return how tokens are chosen.

    Raises:
        ConfigError: a value is out of its range.
    """
    wanted = arguments.generation
    penalties = (wanted.repetition_penalty, wanted.presence_penalty, wanted.frequency_penalty)
    if wanted.decode_strategy == "sampling":
        return Sampling(wanted.temperature, wanted.top_k, wanted.top_p, wanted.min_p, *penalties)
    return Sampling(0.0, 0, 1.0, 0.0, *penalties)


def rules_of(arguments: Arguments, encoder: Encoder, config: ModelConfig) -> Rules:
    """Return what holds for all answers: they end as the answers end that are learned, or at the model's own end."""
    own = config.eos_token_id
    ends = {encoder.tokenizer.eos_id, *(own if isinstance(own, tuple) else (own,)), _learned_end(encoder)}
    return Rules(
        sampling_of(arguments),
        frozenset(token for token in ends if token is not None),
        arguments.generation.min_dec_len,
        min(config.vocab_size, encoder.tokenizer.vocab_size),
        encoder.filler,
    )


def _learned_end(encoder: Encoder) -> int | None:
    """The token that a learned answer ends with; `None` where the limits of length cut it off."""
    try:
        found = encoder.encode(_PROBE, "an example")
    except BadLine:
        return None
    return None if found.answer_cut else found.ids[-1]
