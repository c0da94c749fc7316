"""Data for fine-tuning: files of conversations, their lines, prompts and answers as ids, packing. No paddle."""

from __future__ import annotations

from zoo_core.data.sft.conversation import parse_line
from zoo_core.data.sft.encoder import ENCODINGS, Encoded, Encoder, Limits
from zoo_core.data.sft.files import SAMPLE, TuningFiles, find_tuning_files
from zoo_core.data.sft.lines import BadLine, Lines
from zoo_core.data.sft.order import LengthGroupedPlan
from zoo_core.data.sft.packing import Rows, first_fit
from zoo_core.data.sft.samples import TuningSet
from zoo_core.data.sft.surveying import Survey, survey

__all__ = [
    "ENCODINGS",
    "SAMPLE",
    "BadLine",
    "Encoded",
    "Encoder",
    "LengthGroupedPlan",
    "Limits",
    "Lines",
    "Rows",
    "Survey",
    "TuningFiles",
    "TuningSet",
    "find_tuning_files",
    "first_fit",
    "parse_line",
    "survey",
]
