"""Arguments about training data: corpora for pretraining, conversations and preferences for fine-tuning."""

from __future__ import annotations

from typing import Any

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import ANSWERING, TUNING, argument, no_effect

__all__ = ["DataArguments"]

_READING = (*TUNING, "predict")
"""The tasks that read questions."""


def _split(value: Any) -> str:
    """Return train, validation and test weights as "949,50,1" from that text or from a list of numbers."""
    parts = value if isinstance(value, (list, tuple)) else str(value).replace(",", " ").replace("/", " ").split()
    try:
        weights = [float(part) for part in parts if not isinstance(part, bool)]
    except (TypeError, ValueError):
        weights = []
    if len(weights) != len(parts) or not 1 <= len(weights) <= 3 or not sum(weights) > 0 or min(weights) < 0:
        raise ValueError("one to three weights that are not negative and not all zero, such as 949,50,1")
    return ",".join(str(part).strip() for part in parts)


def _corpora(value: Any) -> str:
    """Return a folder, a prefix, or "weight prefix weight prefix ..." from text or from a list of its words."""
    if isinstance(value, (list, tuple)):
        return " ".join(str(part) for part in value)
    if isinstance(value, str):
        return value
    raise ValueError("a folder, a file prefix, or weights and prefixes in turn")


@group
class DataArguments(Group):
    """Where the samples come from and how they are cut."""

    input_dir: str | None = argument(
        None, "Corpus for pretraining: a folder, a prefix, or `WEIGHT PREFIX WEIGHT PREFIX ...` to blend.",
        aliases=("data_path",), parse=_corpora,
    )  # fmt: skip
    split: str = argument("949,50,1", "Weights of the training, validation and test parts.", parse=_split)
    max_seq_length: int = argument(
        1024, "Sequence length of pretraining.", unit="tokens", aliases=("seq_length",), minimum=1
    )
    share_folder: bool = argument(False, "The data folder is shared by all machines: index files are made once.")
    data_cache: str | None = argument(None, "Folder for index files; ignored when the corpus has an index-cache/.")
    data_impl: str = argument("mmap", "How corpus files are read.", choices=("mmap",))
    skip_warmup: bool = argument(
        True, "Do not read corpus files ahead.", effect=no_effect("files are memory-mapped and never read ahead")
    )
    dataset_name_or_path: str | None = argument(
        None, "Folder with train.json and dev.json (`src` and `tgt`, or `messages`, in JSON lines), or a file; "
        "`sample` is a small set that zoo brings along.",
        aliases=("task_name_or_path",), tasks=TUNING,
    )  # fmt: skip
    task_name: str | None = argument(None, "Folder within that folder.", tasks=TUNING)
    src_length: int = argument(
        1024, "Longest source; what is too long loses its beginning.", unit="tokens", minimum=1, tasks=_READING
    )
    tgt_length: int = argument(
        1024, "Longest target, if given; else max_length is the limit. If max_length is not given, it is the sum of "
        "both lengths.",
        unit="tokens", minimum=1, tasks=_READING,
    )  # fmt: skip
    max_length: int = argument(
        2048, "Longest source and target together; the source is cut first.", unit="tokens", minimum=2, tasks=_READING
    )
    zero_padding: bool = argument(
        False, "Pack several samples into one row; none sees another.", aliases=("intokens",), tasks=TUNING
    )
    greedy_zero_padding: bool = argument(
        False, "PaddleNLP: pack greedily.", effect=no_effect("packing always is greedy, among 64 rows at a time")
    )
    intokens_max_length: int = argument(
        2048, "Length of a packed row, if given; else max_length is.", unit="tokens", minimum=2, tasks=TUNING
    )
    group_by_length: bool = argument(False, "Put samples of like length into a batch.", tasks=TUNING)
    pad_to_multiple_of: int | None = argument(
        None, "Pad rows to a multiple of this.", unit="tokens", minimum=1, tasks=TUNING
    )
    pad_to_max_length: bool = argument(
        False, "Pad every row to max_length instead of to the longest of its step.", tasks=TUNING
    )
    chat_template: str | None = argument(
        None, "Chat template, a Jinja file; empty means the family's own, `none` source and target as they are.",
        tasks=_READING,
    )  # fmt: skip
    bad_lines: str = argument(
        "stop", "What a line does that cannot be used: it stops the run, or is left out and counted.",
        choices=("stop", "skip"), tasks=TUNING,
    )  # fmt: skip
    eval_with_do_generation: bool = argument(
        False, "Evaluate by generating (BLEU-4, Rouge) instead of ppl and accuracy.",
        tasks=ANSWERING,
    )  # fmt: skip
    save_generation_output: bool = argument(
        False, "Write generated_output.json after generation-evaluation.", tasks=ANSWERING
    )
    lazy: bool = argument(False, "Read samples while training.", effect=no_effect("samples are always streamed"))
    train_dataset_path: str | None = argument(
        None, "Preference pairs to train on (DPO): a file, or a folder of them, with `src`, `response` and `sort`, or "
        "`prompt`, `chosen` and `rejected`, in JSON lines.",
        tasks=("dpo",),
    )  # fmt: skip
    dev_dataset_path: str | None = argument(None, "Preference pairs to evaluate on (DPO).", tasks=("dpo",))
    max_seq_len: int = argument(
        4096, "Longest prompt and response together (DPO).", unit="tokens", minimum=2, tasks=("dpo",)
    )
    max_prompt_len: int = argument(
        2048, "What the prompt is cut to where that is too long, before the responses are; half of max_seq_len where "
        "it leaves them no room (DPO).",
        unit="tokens", minimum=1, tasks=("dpo",),
    )  # fmt: skip
    dataloader_num_workers: int = argument(
        0, "Loader processes for each rank; 0 loads in the training process.", minimum=0
    )
    dataloader_drop_last: bool = argument(
        False, "Drop the last incomplete batch of an epoch.",
        effect=no_effect("pretraining samples run on from epoch to epoch, so that no batch is incomplete"),
    )  # fmt: skip
    distributed_dataloader: bool = argument(
        False, "PaddleNLP: load on one rank of a model replica and broadcast.",
        effect=no_effect("each rank maps the corpus and reads only its own samples"),
    )  # fmt: skip
    remove_unused_columns: bool = argument(
        True, "PaddleNLP: drop columns the model does not take.", effect=no_effect("batches are typed")
    )
    lazy_data_processing: bool = argument(
        True, "PaddleNLP: process samples while training.", effect=no_effect("samples are always streamed")
    )
