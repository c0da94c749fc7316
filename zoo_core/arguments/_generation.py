"""Arguments about generating text."""

from __future__ import annotations

import json
from typing import Any

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import GENERATING, argument, no_effect

__all__ = ["GenerationArguments"]

_PREDICT = ("predict",)


def _texts(value: Any) -> str:
    """Return one text as it is, and a list of them as JSON; commas and spaces are theirs."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(text, str) and text for text in value):
        return json.dumps(list(value), ensure_ascii=False)
    if isinstance(value, str):
        return value
    raise ValueError('a text, or a list of texts such as ["END", "User:"]')


@group
class GenerationArguments(Group):
    """How the next token is chosen, and files for prediction."""

    decode_strategy: str = argument(
        "sampling",
        "How the next token is chosen.",
        choices=("sampling", "greedy_search", "beam_search"),
        tasks=GENERATING,
    )
    top_k: int = argument(1, "Sample among this many most likely tokens; 0 is all.", minimum=0, tasks=GENERATING)
    top_p: float = argument(
        1.0, "Sample among the most likely tokens of this total probability.", above=0, maximum=1, tasks=GENERATING
    )
    min_p: float = argument(
        0.0, "Sample among tokens of at least this probability, as a part of the most likely one's.", minimum=0,
        maximum=1, tasks=GENERATING,
    )  # fmt: skip
    temperature: float = argument(1.0, "Divide logits by this before sampling.", minimum=0, tasks=GENERATING)
    min_dec_len: int = argument(1, "Fewest new tokens.", unit="tokens", minimum=0, tasks=GENERATING,
                                aliases=("min_new_tokens",))  # fmt: skip
    max_dec_len: int = argument(
        200, "Most new tokens; in prediction tgt_length, where that alone is given.", unit="tokens", minimum=1,
        tasks=GENERATING, aliases=("max_new_tokens",),
    )  # fmt: skip
    num_return_sequences: int = argument(1, "Answers for each prompt.", minimum=1, tasks=GENERATING)
    num_beams: int = argument(1, "Beams of beam search.", minimum=1, tasks=GENERATING)
    length_penalty: float = argument(0.0, "Exponent of the length in a beam's score.", tasks=GENERATING)
    early_stopping: bool = argument(False, "Stop when enough beams have ended.", tasks=GENERATING)
    repetition_penalty: float = argument(
        1.0, "Divide the logits of tokens seen by this, negative ones are multiplied.", above=0, tasks=GENERATING
    )
    presence_penalty: float = argument(0.0, "Taken off the logits of tokens that the answer has.", tasks=GENERATING)
    frequency_penalty: float = argument(
        0.0, "Taken off the logits of tokens for each time that the answer has them.", tasks=GENERATING
    )
    stop: str | None = argument(
        None, "Texts that end an answer and are no part of it: one, or a JSON list.", parse=_texts, tasks=_PREDICT
    )
    batch_size: int = argument(8, "Prompts at a time in prediction, on each replica.", minimum=1, tasks=_PREDICT)
    data_file: str | None = argument(
        None, "JSON lines to answer: `src` and perhaps `tgt`, `messages`, or a `prompt` to continue.", tasks=_PREDICT
    )
    output_file: str = argument("output.json", "Where answers are written, a JSON line each.", tasks=_PREDICT)
    overwrite_output: bool = argument(
        False, "Answer anew, whatever an earlier prediction left of output_file.", tasks=_PREDICT
    )
    dtype: str | None = argument(
        None, "Type of the weights in prediction; empty is float32 on CPU, which has no other, elsewhere as stored.",
        choices=("float32", "float16", "bfloat16"), tasks=_PREDICT,
    )  # fmt: skip
    gpt: bool = argument(False, "PaddleNLP: the model is GPT.", effect=no_effect("the model's name says so"))
    export_dir: str | None = argument(
        None, "Answer by the programs in this folder, which zoo export wrote (FleetX Inference.model_dir).",
        tasks=_PREDICT, aliases=("static",),
    )  # fmt: skip
    export_runner: str = argument(
        "replay",
        "How exported programs run: jit holds the weights once, replay too and computes single tokens by numpy on CPU, "
        "inference (Paddle Inference) holds them once for each program.",
        choices=("replay", "jit", "inference"), tasks=_PREDICT,
    )  # fmt: skip
