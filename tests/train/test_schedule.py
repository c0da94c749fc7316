"""The shapes of the learning rate, against formulas written out."""

from __future__ import annotations

import math

import pytest

from zoo_core.arguments import load_arguments
from zoo_core.train.schedule import Schedule, schedule_of

HIGH, LOW = 3e-4, 3e-5


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(("warmup", "decay"), [(0, 100), (10, 100), (100, 100), (7, 31)])
def test_decaying_shapes(kind, warmup, decay):
    schedule = Schedule(kind, HIGH, LOW, warmup, decay)
    for step in range(1, 120):
        if step <= warmup:
            expected = HIGH * step / warmup
        elif step > decay:
            expected = LOW
        elif kind == "linear":
            expected = HIGH - (HIGH - LOW) * (step - warmup) / (decay - warmup)
        else:
            expected = (HIGH + LOW) / 2 + (HIGH - LOW) / 2 * math.cos(math.pi * (step - warmup) / (decay - warmup))
        assert schedule.rate(step) == pytest.approx(expected, rel=1e-12)


def test_ends_of_the_shape():
    schedule = Schedule("cosine", HIGH, LOW, 10, 100)
    assert schedule.rate(10) == HIGH
    assert schedule.rate(100) == schedule.rate(1000) == LOW
    assert schedule.rate(55) == pytest.approx((HIGH + LOW) / 2)


def test_constant_shapes():
    assert [Schedule("constant", HIGH, LOW, 10, 100).rate(step) for step in (1, 10, 500)] == [HIGH] * 3
    warm = Schedule("constant_with_warmup", HIGH, LOW, 4, 100)
    assert [warm.rate(step) / HIGH for step in range(1, 7)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_documented_first_rate():
    """FleetX: 5e-5 over 900,000 steps of which 1 % warm up logs 5.55556e-09 at step 1."""
    assert f"{Schedule('cosine', 5e-5, 1e-5, 9000, 900_000).rate(1):.5e}" == "5.55556e-09"


@pytest.mark.parametrize(
    ("flags", "warmup", "decay"),
    [
        ("--warmup_ratio 0.1", 20, 200),
        ("--warmup_ratio 0.1 --warmup_steps 5", 5, 200),
        ("--warmup_steps 5 --decay_steps 50", 5, 50),
        ("", 0, 200),
    ],
)
def test_arguments(flags, warmup, decay):
    training = load_arguments("pretrain", (), ["--model", "qwen/qwen-7b", *flags.split()]).training
    schedule = schedule_of(training, 200)
    assert (schedule.warmup_steps, schedule.decay_steps) == (warmup, decay)
    assert (schedule.kind, schedule.highest, schedule.lowest) == ("linear", 5e-5, 1e-5)
