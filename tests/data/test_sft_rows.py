"""Rows: packing, batches of like length, what micro batches hold, and the survey of all lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from letters import EOS, Letters  # noqa: E402

from zoo_core.data import BatchPlan
from zoo_core.data.sft import BadLine, Encoder, LengthGroupedPlan, Lines, Survey, TuningSet, first_fit, survey


@pytest.fixture
def lines(tmp_path):
    """Questions of 1 to 9 letters with one of an answer: each sample is read as its question and its answer."""
    path = tmp_path / "train.json"
    texts = [{"src": "q" * size, "tgt": chr(ord("a") + size)} for size in range(1, 10)]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return Lines((path,))


@pytest.fixture
def looked(lines):
    return survey(lines, Encoder(Letters()), 0, len(lines), skip_bad=False)


def test_first_fit_places_every_sample_once_within_the_room():
    random = np.random.RandomState(0)
    lengths = random.randint(1, 65, 2000)
    order = random.permutation(2000)
    rows = first_fit(lengths, 64, order)
    assert sorted(np.concatenate([rows[i] for i in range(len(rows))]).tolist()) == list(range(2000))
    assert [int(lengths[rows[i]].sum()) for i in range(len(rows))] == rows.lengths.tolist()
    assert rows.lengths.max() <= 64 and rows.lengths.mean() > 0.95 * 64
    again = first_fit(lengths, 64, order)
    assert (again.members == rows.members).all() and (again.bounds == rows.bounds).all()
    with pytest.raises(ValueError, match="64 tokens for rows of 63"):
        first_fit(lengths, 63, order)


def test_first_fit_by_hand():
    rows = first_fit(np.array([5, 6, 3, 4, 2, 1]), 8, np.array([0, 1, 2, 3, 4, 5]))
    assert [rows[i].tolist() for i in range(len(rows))] == [[0, 2], [1, 4], [3, 5]]
    assert rows.lengths.tolist() == [8, 8, 5]


def test_batches_of_like_length_are_a_permutation_with_little_padding():
    lengths = np.random.RandomState(1).randint(1, 500, 1003)
    plain, grouped = BatchPlan(8, 8, 0, 1, 1003, 5), LengthGroupedPlan(8, 8, 0, 1, 1003, 5, lengths=lengths)
    for number in (0, 1):
        assert sorted(grouped.order(number).tolist()) == list(range(1003))
    assert (grouped.order(0) != grouped.order(1)).any() and (grouped.order(0) == grouped.order(0)).all()

    def padded(plan):
        return sum(8 * lengths[plan.global_indices(step)].max() for step in range(125))

    assert padded(grouped) < 0.65 * padded(plain)
    assert lengths[grouped.global_indices(0)].max() == max(lengths[grouped.order(0)[:400]])
    # ranks read parts of the same global batches, from any step on
    halves = [LengthGroupedPlan(8, 2, rank, 2, 1003, 5, lengths=lengths) for rank in range(2)]
    together = np.stack([half.micro_batches(130) for half in halves], axis=1).reshape(-1)
    assert (together == grouped.global_indices(130)).all()


def test_a_micro_batch_of_single_samples(lines, looked):
    data = TuningSet(lines, Encoder(Letters()), looked)
    assert data.lengths.tolist() == list(range(2, 11))
    found = data.micro_batches([np.array([0, 2])])[0]
    assert sorted(found) == ["attention_mask", "input_ids", "labels"]
    q, b, d = map(ord, "qbd")
    assert found["input_ids"].tolist() == [[q, b, EOS, EOS], [q, q, q, d]]
    assert found["labels"].tolist() == [[b, EOS, -100, -100], [-100, -100, d, EOS]]
    assert found["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert "attention_mask" not in data.micro_batches([np.array([3])])[0]


def test_a_micro_batch_of_packed_samples(lines, looked):
    rows = first_fit(looked.lengths.astype(np.int64), 8, np.array([0, 2, 4]))
    data = TuningSet(lines, Encoder(Letters()), looked, rows)
    assert data.lengths.tolist() == [6, 6]
    found = data.collate(np.array([0]), 8)
    q, b, d = map(ord, "qbd")
    assert found["input_ids"].tolist() == [[q, b, q, q, q, d, EOS, EOS]]
    assert found["labels"].tolist() == [[b, EOS, -100, -100, d, EOS, -100, -100]]
    assert found["segment_ids"].tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 0, 1]]
    assert found["attention_mask"].tolist() == [[1] * 6 + [0, 0]]


def test_widths_and_filling(lines, looked):
    data = TuningSet(lines, Encoder(Letters()), looked, multiple=4)
    step = np.array([0, 1, 2, 3])
    parts = data.micro_batches([np.array([0, 1]), np.array([2, -1])], step)
    assert [part["input_ids"].shape for part in parts] == [(2, 8), (2, 8)]
    assert (parts[1]["labels"][1] == -100).all() and (parts[1]["labels"][0] != -100).sum() == 2
    fixed = TuningSet(lines, Encoder(Letters()), looked, fixed=30)
    assert fixed.micro_batches([np.array([0])])[0]["labels"].shape == (1, 30)


def test_surveys_of_parts_are_that_of_the_whole(lines, looked):
    encoder = Encoder(Letters())
    parts = [survey(lines, encoder, *share, skip_bad=False).to_text() for share in ((0, 4), (4, 4), (4, 9))]
    whole = Survey.from_texts(parts)
    assert whole.lengths.tolist() == looked.lengths.tolist() == list(range(2, 11))
    assert whole.learned.tolist() == [2] * 9 and whole.samples.tolist() == list(range(9))


def test_bad_lines_stop_or_are_left_out(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"src": "q", "tgt": "a"}\n\n{"src": "q"}\n{"src": "r", "tgt": "b"}\n')
    lines, encoder = Lines((path,)), Encoder(Letters())
    with pytest.raises(BadLine, match=r"train.json:3 has no tgt"):
        survey(lines, encoder, 0, 3, skip_bad=False)
    found = survey(lines, encoder, 0, 3, skip_bad=True)
    assert found.lengths.tolist() == [2, 0, 2] and found.samples.tolist() == [0, 2]
    assert len(found.bad) == 1 and found.bad[0].startswith(f"{path}:3 has no tgt")
    data = TuningSet(lines, encoder, found)
    assert len(data) == 2 and data.row(1)[0].ids[0] == ord("r")
