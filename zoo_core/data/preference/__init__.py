"""Data for preference optimisation: a prompt, an answer that was chosen and one that was rejected. No paddle."""

from __future__ import annotations

from zoo_core.data.preference.encoding import EncodedPair, PairEncoder
from zoo_core.data.preference.files import find_pair_files
from zoo_core.data.preference.pairs import PairSet, survey_pairs
from zoo_core.data.preference.record import Pair, parse_pair

__all__ = ["EncodedPair", "Pair", "PairEncoder", "PairSet", "find_pair_files", "parse_pair", "survey_pairs"]
