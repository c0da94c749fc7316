"""How near generated answers come to those that were wanted: BLEU-4 and Rouge. No paddle.

BLEU-4 is sacrebleu's, of the whole part (Papineni et al. 2002; Post 2018), with its exponential smoothing. Rouge is
rouge-score's F-measure, the mean over answers (Lin 2004). Both are from 0 to 1. Words are what is counted; in Chinese
every character is one, which rouge-score by itself would drop.

PaddleNLP counts characters in every language, and does not smooth BLEU: its numbers do not compare with these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from zoo_core.errors import ConfigError

__all__ = ["SCORES", "check_scorers", "scores"]

SCORES = ("bleu4", "rouge1", "rouge2", "rougel")
"""What is measured, by the names that `metric_for_best_model` has for it."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAS_HAN = re.compile(f"[{_HAN}]")
_TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")
_PACKAGES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}


class _Words:
    """Tokens for rouge-score: words of letters and digits in lower case, and single characters of Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return _TOKEN.findall(text.lower())


def check_scorers() -> None:
    """Refuse to go on where a library is missing.

    Raises:
        ConfigError: it is.
    """
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} missing: eval_with_do_generation cannot measure",
            "BLEU-4 is sacrebleu's and Rouge is rouge-score's; neither is needed otherwise",
            'pip install "zoo-core[metrics]", or leave eval_with_do_generation out',
        )


def scores(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Return the `SCORES` of answers against one target each.

    Raises:
        ValueError: there are none, or not as many of both.
    """
    from rouge_score.rouge_scorer import RougeScorer  # optional, and it takes a while
    from sacrebleu.metrics.bleu import BLEU

    if not answers or len(answers) != len(targets):
        raise ValueError(f"{len(answers)} answers and {len(targets)} targets")
    kind = "zh" if any(_HAS_HAN.search(text) for text in targets) else "13a"
    # where no answer has four words, the longest runs of words that there are count: else BLEU would be 0 of any
    bleu = BLEU(tokenize=kind, effective_order=True).corpus_score(list(answers), [list(targets)])
    names = {"rouge1": "rouge1", "rouge2": "rouge2", "rougel": "rougeL"}
    scorer: Any = RougeScorer(list(names.values()), tokenizer=_Words())
    each = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    rouge = {ours: sum(found[name].fmeasure for found in each) / len(each) for ours, name in names.items()}
    return {"bleu4": min(bleu.score / 100, 1.0), **rouge}
