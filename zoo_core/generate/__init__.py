"""Decoding: the next token, rows that decode together with a cache, and text as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core._lazy import importer

if TYPE_CHECKING:
    from zoo_core.generate.batched import BatchLogits, decode_batch, decode_steps
    from zoo_core.generate.beam import BeamPasses, beam_search
    from zoo_core.generate.beam_row import Beam
    from zoo_core.generate.choice import Sampling, choose, probabilities
    from zoo_core.generate.chooser import Chooser
    from zoo_core.generate.model import TextModel, load_model
    from zoo_core.generate.passes import EnginePasses
    from zoo_core.generate.pool import Passes, Pool
    from zoo_core.generate.rules import Finish, Row, Rules, Step
    from zoo_core.generate.texts import AnswerText, TextStream

__all__ = [
    "AnswerText",
    "BatchLogits",
    "Beam",
    "BeamPasses",
    "Chooser",
    "EnginePasses",
    "Finish",
    "Passes",
    "Pool",
    "Row",
    "Rules",
    "Sampling",
    "Step",
    "TextModel",
    "TextStream",
    "beam_search",
    "choose",
    "decode_batch",
    "decode_steps",
    "load_model",
    "probabilities",
]

_HOMES = {
    "zoo_core.generate.batched": ("BatchLogits", "decode_batch", "decode_steps"),
    "zoo_core.generate.beam": ("BeamPasses", "beam_search"),
    "zoo_core.generate.beam_row": ("Beam",),
    "zoo_core.generate.choice": ("Sampling", "choose", "probabilities"),
    "zoo_core.generate.chooser": ("Chooser",),
    "zoo_core.generate.model": ("TextModel", "load_model"),
    "zoo_core.generate.passes": ("EnginePasses",),
    "zoo_core.generate.pool": ("Passes", "Pool"),
    "zoo_core.generate.rules": ("Finish", "Row", "Rules", "Step"),
    "zoo_core.generate.texts": ("AnswerText", "TextStream"),
}

# only `model` and `passes` need paddle
__getattr__ = importer(__name__, _HOMES)
