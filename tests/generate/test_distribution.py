"""Draws follow the distribution that each setting is defined to give: chi-square over 10,000 draws.

The reference below is written from the definitions, in float64, and shares nothing with the code under test:
- temperature: softmax of logits / T.
- top-k: only the k most probable tokens (Fan et al. 2018, arXiv 1805.04833).
- top-p: the smallest set of the most probable tokens whose probability is at least p (Holtzman et al. 2020, arXiv
  1904.09751, section 3.1).
- min-p: tokens of at least min_p times the probability of the most probable one (Nguyen et al. 2024, arXiv 2407.01082).
- repetition penalty: the logit of a token of the text so far is divided by it, if above 0, else multiplied (Keskar et
  al. 2019, arXiv 1909.05858, section 4.1, with the case of negative logits that every implementation adds).
- presence and frequency penalty: logit[j] - count[j] * frequency - (count[j] > 0) * presence, with the counts of the
  answer (OpenAI's API documentation).

They combine in this order: repetition, presence and frequency penalty; temperature; top-k; top-p; min-p. Each looks at
the probabilities, made to sum to 1 again, that the one before has left. `ORDERED` has cases where another order would
give another distribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from zoo_core.generate import Chooser, Row, Rules, Sampling, choose
from zoo_core.generate.choice import penalised, probabilities

DRAWS, VOCAB = 10_000, 40
SIGNIFICANT, BEYOND_DOUBT = 1e-3, 1e-9
PROMPT, ANSWER = (3, 3, 7, 11, 20), (5, 7, 7, 7, 30, 5, 1)


def logits_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng([77, seed]).standard_normal(VOCAB) * 1.5


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def kept(chances: np.ndarray, which: np.ndarray) -> np.ndarray:
    found = np.where(which, chances, 0.0)
    return found / found.sum()


def with_top_k(chances: np.ndarray, k: int) -> np.ndarray:
    return kept(chances, chances >= np.sort(chances)[-k])


def with_top_p(chances: np.ndarray, p: float) -> np.ndarray:
    which, total = np.zeros(len(chances), bool), 0.0
    for token in sorted(range(len(chances)), key=lambda token: -chances[token]):
        which[token] = True
        total += chances[token]
        if total >= p:
            break
    return kept(chances, which)


def with_min_p(chances: np.ndarray, share: float) -> np.ndarray:
    return kept(chances, chances >= share * chances.max())


def with_repetition(logits: np.ndarray, penalty: float, text: Sequence[int]) -> np.ndarray:
    found = logits.copy()
    for token in set(text):
        found[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return found


def with_counts(logits: np.ndarray, presence: float, frequency: float, answer: Sequence[int]) -> np.ndarray:
    found = logits.copy()
    for token, count in Counter(answer).items():
        found[token] -= count * frequency + presence
    return found


Reference = Callable[[np.ndarray], np.ndarray]

ALONE: dict[str, tuple[dict[str, float], Reference]] = {
    "nothing": ({}, softmax),
    "temperature 0.6": ({"temperature": 0.6}, lambda x: softmax(x / 0.6)),
    "temperature 1.7": ({"temperature": 1.7}, lambda x: softmax(x / 1.7)),
    "top-k 5": ({"top_k": 5}, lambda x: with_top_k(softmax(x), 5)),
    "top-k beyond the vocabulary": ({"top_k": 99}, softmax),
    "top-p 0.7": ({"top_p": 0.7}, lambda x: with_top_p(softmax(x), 0.7)),
    "min-p 0.15": ({"min_p": 0.15}, lambda x: with_min_p(softmax(x), 0.15)),
    "repetition 1.8": ({"repetition_penalty": 1.8}, lambda x: softmax(with_repetition(x, 1.8, PROMPT + ANSWER))),
    "repetition 0.7": ({"repetition_penalty": 0.7}, lambda x: softmax(with_repetition(x, 0.7, PROMPT + ANSWER))),
    "presence 1.1": ({"presence_penalty": 1.1}, lambda x: softmax(with_counts(x, 1.1, 0.0, ANSWER))),
    "presence -0.8": ({"presence_penalty": -0.8}, lambda x: softmax(with_counts(x, -0.8, 0.0, ANSWER))),
    "frequency 0.9": ({"frequency_penalty": 0.9}, lambda x: softmax(with_counts(x, 0.0, 0.9, ANSWER))),
}
ORDERED: dict[str, tuple[dict[str, float], Reference, Reference]] = {
    "temperature before top-p": (
        {"temperature": 2.0, "top_p": 0.6},
        lambda x: with_top_p(softmax(x / 2.0), 0.6),
        lambda x: softmax(np.log(with_top_p(softmax(x), 0.6) + 1e-300) / 2.0),
    ),
    "temperature before min-p": (
        {"temperature": 2.0, "min_p": 0.3},
        lambda x: with_min_p(softmax(x / 2.0), 0.3),
        lambda x: softmax(np.log(with_min_p(softmax(x), 0.3) + 1e-300) / 2.0),
    ),
    "top-k before top-p": (
        {"top_k": 6, "top_p": 0.8},
        lambda x: with_top_p(with_top_k(softmax(x), 6), 0.8),
        lambda x: with_top_k(with_top_p(softmax(x), 0.8), 6),
    ),
    "penalties before temperature": (
        {"temperature": 0.5, "presence_penalty": 1.0, "frequency_penalty": 0.3},
        lambda x: softmax(with_counts(x, 1.0, 0.3, ANSWER) / 0.5),
        lambda x: softmax(with_counts(x / 0.5, 1.0, 0.3, ANSWER)),
    ),
    "repetition before presence": (
        {"repetition_penalty": 2.0, "presence_penalty": 1.5},
        lambda x: softmax(with_counts(with_repetition(x, 2.0, PROMPT + ANSWER), 1.5, 0.0, ANSWER)),
        lambda x: softmax(with_repetition(with_counts(x, 1.5, 0.0, ANSWER), 2.0, PROMPT + ANSWER)),
    ),
    "penalties before top-k": (
        {"repetition_penalty": 2.5, "top_k": 4},
        lambda x: with_top_k(softmax(with_repetition(x, 2.5, PROMPT + ANSWER)), 4),
        lambda x: softmax(with_repetition(np.log(with_top_k(softmax(x), 4) + 1e-300), 2.5, PROMPT + ANSWER)),
    ),
    "all": (
        {
            "temperature": 1.4, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3,
            "presence_penalty": 0.4, "frequency_penalty": 0.2,
        },
        lambda x: with_min_p(
            with_top_p(
                with_top_k(
                    softmax(with_counts(with_repetition(x, 1.3, PROMPT + ANSWER), 0.4, 0.2, ANSWER) / 1.4), 20
                ), 0.9
            ), 0.1
        ),
        lambda x: with_top_k(
            with_min_p(with_top_p(softmax(with_counts(with_repetition(x, 1.3, ANSWER), 0.4, 0.2, ANSWER)), 0.9), 0.1),
            20,
        ),
    ),
}  # fmt: skip


def drawn(sampling: Sampling, logits: np.ndarray) -> np.ndarray:
    """How often each token came next, after PROMPT and ANSWER, in DRAWS draws."""
    counts, random = np.zeros(VOCAB, np.int64), np.random.default_rng([5, 0])
    values = logits
    if sampling.penalises:
        values = penalised(logits, sampling, Counter(ANSWER), np.unique(PROMPT + ANSWER))
    for _ in range(DRAWS):
        counts[choose(values, sampling, random)] += 1
    return counts


@pytest.mark.parametrize("name", ["repetition 1.8", "presence 1.1", "frequency 0.9"])
def test_a_row_remembers_its_prompt_and_its_answer(name):
    """What `drawn` leaves out: the tokens so far are those that the row was given and has said."""
    settings, reference = ALONE[name]
    logits, counts = np.where(np.isin(np.arange(VOCAB), ANSWER), 2.0, 0.0), np.zeros(VOCAB, np.int64)
    forced = np.full((len(ANSWER), VOCAB), -1e30)
    forced[np.arange(len(ANSWER)), ANSWER] = 0.0
    for seed in range(800):
        chooser = Chooser(Row(PROMPT, len(ANSWER) + 1, (8, seed)), Rules(Sampling(**settings)))
        assert [chooser.next(line).token for line in forced] == list(ANSWER)
        counts[chooser.next(logits).token] += 1
    assert chance_of(counts, reference(logits)) > SIGNIFICANT
    assert chance_of(counts, softmax(logits)) < BEYOND_DOUBT


def chance_of(counts: np.ndarray, chances: np.ndarray) -> float:
    """How likely counts as far off as these are, if `chances` is what is drawn from: Pearson's chi-square.

    Tokens that are expected fewer than five times are counted as one.
    """
    total = counts.sum()
    expected = chances * total
    if counts[expected == 0].any():
        return 0.0
    rare = expected < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    return upper_gamma((len(seen) - 1) / 2, ((seen - wanted) ** 2 / wanted).sum() / 2)


def upper_gamma(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function, the tail of chi-square, as an integral."""
    if x <= 0:
        return 1.0
    spread = a + x + 60 + 30 * np.sqrt(a + x)
    points = np.concatenate([np.geomspace(1e-12, 1, 20_000)[:-1], np.linspace(1, spread, 400_000)])
    logs = (a - 1) * np.log(points) - points
    heights = np.exp(logs - logs.max())
    areas = np.diff(points) * (heights[1:] + heights[:-1]) / 2
    return float(areas[points[:-1] >= x].sum() / areas.sum())


def test_the_tail_of_chi_square_is_right():
    """Values of a printed table (Abramowitz and Stegun, table 26.8): degrees of freedom, chi-square, probability."""
    for freedom, value, chance in ((1, 3.84146, 0.05), (5, 11.0705, 0.05), (10, 23.2093, 0.01), (30, 59.7031, 0.001)):
        assert abs(upper_gamma(freedom / 2, value / 2) - chance) < 0.01 * chance


@pytest.mark.parametrize("name", ALONE)
def test_one_setting(name):
    settings, reference = ALONE[name]
    logits = logits_of()
    assert chance_of(drawn(Sampling(**settings), logits), reference(logits)) > SIGNIFICANT


@pytest.mark.parametrize("name", ORDERED)
def test_settings_combine_in_this_order(name):
    """To the last digit, for what is drawn from is known; of all settings together, by draws too."""
    settings, reference, other = ORDERED[name]
    logits, sampling = logits_of(1), Sampling(**settings)
    values = penalised(logits, sampling, Counter(ANSWER), np.unique(PROMPT + ANSWER))
    found = probabilities(values, sampling)
    np.testing.assert_allclose(found, reference(logits), rtol=1e-12, atol=1e-15)
    assert np.abs(found - other(logits)).max() > 1e-3
    if name == "all":
        assert chance_of(drawn(sampling, logits), reference(logits)) > SIGNIFICANT


WRONG: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "temperature": ({"temperature": 1.0}, {"temperature": 1.15}),
    "presence is not frequency": ({"presence_penalty": 0.5}, {"frequency_penalty": 0.5}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_noticed(name):
    """The test can fail: draws with the second setting are not those of the first."""
    right, wrong = WRONG[name]
    logits = logits_of(2)
    counts = drawn(Sampling(**wrong), logits)
    assert chance_of(counts, by_definition(logits, **right)) < BEYOND_DOUBT
    assert chance_of(counts, by_definition(logits, **wrong)) > SIGNIFICANT


def by_definition(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int = VOCAB,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
) -> np.ndarray:
    """Every setting, in the order above."""
    values = with_repetition(logits, repetition_penalty, PROMPT + ANSWER)
    values = with_counts(values, presence_penalty, frequency_penalty, ANSWER)
    return with_min_p(with_top_p(with_top_k(softmax(values / temperature), top_k), top_p), min_p)
