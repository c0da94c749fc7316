"""The next token: what is kept, with which probability, and that draws follow it."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core import ZooError
from zoo_core.generate import Sampling, choose, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


def chances(**settings):
    return probabilities(LOGITS, Sampling(**settings)).round(12).tolist()


def test_with_nothing_set_it_is_the_softmax():
    assert chances() == [0.1, 0.4, 0.2, 0.3]


def test_temperature_sharpens_and_flattens():
    assert np.allclose(chances(temperature=0.5), np.array([1, 16, 4, 9]) / 30)
    assert np.allclose(chances(temperature=1e6), 0.25, atol=1e-5)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_greedy_takes_the_most_likely(settings):
    assert chances(**settings) == [0, 1, 0, 0]


def test_top_k_keeps_so_many():
    assert np.allclose(chances(top_k=2), [0, 4 / 7, 0, 3 / 7])
    assert chances(top_k=9) == chances()


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    assert np.flatnonzero(chances(top_p=top_p)).tolist() == kept


def test_top_p_looks_at_what_top_k_left():
    assert np.flatnonzero(chances(top_k=2, top_p=0.5)).tolist() == [1]
    assert np.flatnonzero(chances(top_k=2, top_p=0.6)).tolist() == [1, 3]


def test_of_equal_logits_the_lower_id_wins():
    assert probabilities(np.zeros(4), Sampling(top_k=2)).tolist() == [0.5, 0.5, 0, 0]


def test_large_and_minus_infinite_logits():
    found = probabilities(np.array([1e9, -np.inf, 1e9], np.float32), Sampling())
    assert found.tolist() == [0.5, 0, 0.5]


def test_draws_follow_the_probabilities():
    random, sampling = np.random.default_rng(0), Sampling(temperature=0.5)
    drawn = np.bincount([choose(LOGITS, sampling, random) for _ in range(6000)], minlength=4) / 6000
    assert np.abs(drawn - np.array([1, 16, 4, 9]) / 30).max() < 0.02


def test_what_has_no_probability_is_never_drawn():
    random = np.random.default_rng(1)
    assert {choose(LOGITS, Sampling(top_k=2), random) for _ in range(500)} == {1, 3}


def test_weights_that_diverged():
    with pytest.raises(ZooError, match="not numbers"):
        probabilities(np.array([0.0, np.nan]), Sampling())


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": np.inf}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_values_out_of_range(wrong):
    with pytest.raises(ZooError, match=next(iter(wrong))):
        Sampling(**wrong)
