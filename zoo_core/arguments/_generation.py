"""Arguments about generating text."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import ANSWERING, argument, no_effect, not_yet

__all__ = ["GenerationArguments"]

_TASK = not_yet("generation")


@group
class GenerationArguments(Group):
    """How the next token is chosen, and files for prediction."""

    decode_strategy: str = argument(
        "sampling",
        "How the next token is chosen.",
        choices=("sampling", "greedy_search", "beam_search"),
        tasks=ANSWERING,
    )
    top_k: int = argument(1, "Sample among this many most likely tokens; 0 is all.", minimum=0, tasks=ANSWERING)
    top_p: float = argument(
        1.0, "Sample among the most likely tokens of this total probability.", above=0, maximum=1, tasks=ANSWERING
    )
    temperature: float = argument(1.0, "Divide logits by this before sampling.", minimum=0, tasks=ANSWERING)
    min_dec_len: int = argument(1, "Fewest new tokens.", unit="tokens", minimum=0, tasks=ANSWERING,
                                aliases=("min_new_tokens",))  # fmt: skip
    max_dec_len: int = argument(200, "Most new tokens.", unit="tokens", minimum=1, tasks=ANSWERING,
                                aliases=("max_new_tokens",))  # fmt: skip
    num_return_sequences: int = argument(1, "Answers for each prompt.", minimum=1, tasks=ANSWERING)
    num_beams: int = argument(1, "Beams of beam search.", minimum=1, effect=_TASK)
    length_penalty: float = argument(0.0, "Exponent of the length in a beam's score.", effect=_TASK)
    early_stopping: bool = argument(False, "Stop when enough beams have ended.", effect=_TASK)
    repetition_penalty: float = argument(1.0, "Divide the logits of tokens seen by this.", above=0, effect=_TASK)
    batch_size: int = argument(8, "Prompts at a time in prediction.", minimum=1, effect=_TASK)
    data_file: str | None = argument(None, "JSON lines to answer.", effect=_TASK)
    output_file: str = argument("output.json", "Where answers are written.", effect=_TASK)
    dtype: str | None = argument(
        None, "Type of the weights in prediction.", choices=("float32", "float16", "bfloat16"), effect=_TASK
    )
    gpt: bool = argument(False, "PaddleNLP: the model is GPT.", effect=no_effect("the model's name says so"))
    export_dir: str | None = argument(None, "Folder of an exported model (FleetX Inference.model_dir).", effect=_TASK)
