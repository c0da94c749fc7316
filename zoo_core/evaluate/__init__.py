"""Evaluation: perplexity on a corpus, multiple choice from local files, and lm-evaluation-harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core._lazy import importer

if TYPE_CHECKING:
    from zoo_core.evaluate.answering import ChoiceReport, answer_questions
    from zoo_core.evaluate.documents import Document, read_documents
    from zoo_core.evaluate.encoding import context_ids, opening, pair_ids
    from zoo_core.evaluate.perplexity import PerplexityReport, measure_perplexity
    from zoo_core.evaluate.questions import Question, QuestionSet, read_questions

__all__ = [
    "ChoiceReport",
    "Document",
    "PerplexityReport",
    "Question",
    "QuestionSet",
    "answer_questions",
    "context_ids",
    "measure_perplexity",
    "opening",
    "pair_ids",
    "read_documents",
    "read_questions",
]

_HOMES = {
    "zoo_core.evaluate.answering": ("ChoiceReport", "answer_questions"),
    "zoo_core.evaluate.documents": ("Document", "read_documents"),
    "zoo_core.evaluate.encoding": ("context_ids", "opening", "pair_ids"),
    "zoo_core.evaluate.perplexity": ("PerplexityReport", "measure_perplexity"),
    "zoo_core.evaluate.questions": ("Question", "QuestionSet", "read_questions"),
}

# only `answering` and `perplexity` need paddle
__getattr__ = importer(__name__, _HOMES)
