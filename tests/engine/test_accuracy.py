"""Accuracy on whole and on split logits; the split of several ranks is `tests/train/test_sft_layouts.py`'s."""

from __future__ import annotations

import numpy as np
import paddle

from zoo_core.engine.accuracy import count_correct


def test_correct_tokens_are_those_of_argmax():
    random = np.random.RandomState(0)
    logits = random.randn(3, 7, 20).astype("float32")
    labels = np.where(random.rand(3, 7) < 0.5, logits.argmax(-1), random.randint(0, 20, (3, 7)))
    labels[:, :2] = -100
    counted = (logits.argmax(-1) == labels)[:, 2:].sum()
    assert 0 < counted < 15
    assert int(count_correct(paddle.to_tensor(logits), paddle.to_tensor(labels))) == counted


def test_padding_of_the_vocabulary_is_never_the_most_probable():
    logits = np.zeros((1, 2, 8), "float32")
    logits[..., 3], logits[..., 7] = 1.0, 9.0
    labels = paddle.to_tensor(np.array([[3, 7]]))
    assert int(count_correct(paddle.to_tensor(logits), labels)) == 1, "whole logits have no padding"
    assert int(count_correct(paddle.to_tensor(logits), labels, vocab_size=6)) == 1
    assert int(count_correct(paddle.to_tensor(logits), labels, start=6, vocab_size=6)) == 0


def test_of_equal_logits_the_first_counts():
    logits = paddle.zeros([1, 2, 5])
    assert int(count_correct(logits, paddle.to_tensor(np.array([[0, 1]])))) == 1
