"""The arguments of a run: groups with PaddleNLP's names and defaults, read from files, flags and `-o`."""

from __future__ import annotations

from zoo_core.arguments._batch import accumulation_steps, row_multiple, sample_tokens
from zoo_core.arguments._container import Arguments
from zoo_core.arguments._data import DataArguments
from zoo_core.arguments._describe import describe, help_text
from zoo_core.arguments._effects import effect_line
from zoo_core.arguments._finetune import FinetuneArguments
from zoo_core.arguments._generation import GenerationArguments
from zoo_core.arguments._launch import LaunchArguments
from zoo_core.arguments._load import load_arguments
from zoo_core.arguments._model import ModelArguments
from zoo_core.arguments._parallel import ParallelArguments
from zoo_core.arguments._registry import TASKS
from zoo_core.arguments._spec import ANSWERING, GENERATING, TUNING
from zoo_core.arguments._training import TrainingArguments

__all__ = [
    "ANSWERING",
    "GENERATING",
    "TASKS",
    "TUNING",
    "Arguments",
    "DataArguments",
    "FinetuneArguments",
    "GenerationArguments",
    "LaunchArguments",
    "ModelArguments",
    "ParallelArguments",
    "TrainingArguments",
    "accumulation_steps",
    "describe",
    "effect_line",
    "help_text",
    "load_arguments",
    "row_multiple",
    "sample_tokens",
]
