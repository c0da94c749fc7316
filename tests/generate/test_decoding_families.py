"""Beam search with every family's cache, and rows that join late, with adapters and behind prefixes too.

There is no other implementation to compare with here: what a beam is said to be worth is compared with the
log-probabilities of its whole text, read at once without a cache.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from decoding_models import DRAWN, FAMILIES, alone, make_engine, prompts  # noqa: E402

from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.generate import Beam, EnginePasses, Pool, Row, Rules, Sampling, beam_search  # noqa: E402
from zoo_core.generate.choice import log_probabilities  # noqa: E402
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter  # noqa: E402

NEW = 7
GREEDY = Sampling(temperature=0.0)


def rows_of(engine: Engine) -> list[Row]:
    return [Row(ids, NEW - number, (3, number)) for number, ids in enumerate(prompts(engine))]


def worth(engine: Engine, prompt: list[int], beam: Beam, end: int | None) -> list[float]:
    """The log-probability of each token of a beam, its end included."""
    answer = [*beam.tokens, *([end] if beam.finish == "stop" else [])]
    ids = [*prompt, *answer[:-1]]
    fields = {"input_ids": np.asarray([ids]), "position_ids": np.arange(len(ids))[None]}
    logits_SV = engine.logits(fields)[0].numpy()[len(prompt) - 1 :]
    return [float(log_probabilities(line)[token]) for line, token in zip(logits_SV, answer, strict=True)]


def beams_are_worth_what_they_say(engine: Engine) -> None:
    passes, rows = EnginePasses(engine), rows_of(engine)
    plain = beam_search(passes, rows, Rules(GREEDY), 3, num_return_sequences=3)
    end = plain[0][1].tokens[2]
    found = beam_search(passes, rows, Rules(GREEDY, ends=(end,)), 3, num_return_sequences=3, early_stopping="never")
    assert any(beam.finish == "stop" for row in found for beam in row)
    for row, beams in zip(rows, found, strict=True):
        assert len({beam.tokens for beam in beams}) == 3
        for beam in beams:
            np.testing.assert_allclose(beam.logprobs, worth(engine, list(row.ids), beam, end), rtol=1e-4, atol=1e-4)
    pieces = beam_search(passes, rows, Rules(GREEDY), 3, num_return_sequences=3, chunk=3 * len(rows))
    assert [[beam.tokens for beam in row] for row in pieces] == [[beam.tokens for beam in row] for row in plain]
    for row, beams in zip(rows, plain, strict=True):
        one = beam_search(passes, [row], Rules(GREEDY), 3, num_return_sequences=3)[0]
        assert [beam.tokens for beam in one] == [beam.tokens for beam in beams]


def rows_that_join_late_get_what_they_get_alone(engine: Engine) -> list[list[int]]:
    rules, rows = Rules(DRAWN), rows_of(engine)
    pool, found = Pool(EnginePasses(engine), 3, 40), {}
    for row in rows:
        found[pool.add(row, rules)] = []
        for ticket, step in pool.step().items():
            found[ticket].append(step.token)
    while pool.free < 3:
        for ticket, step in pool.step().items():
            found[ticket].append(step.token)
    expected = [alone(engine, row, rules) for row in rows]
    assert list(found.values()) == expected
    return expected


def tuned(family: str, **more: Any) -> Engine:
    """A model with adapters or a prefix that matter."""
    engine, random = make_engine(FAMILIES[family], **more), np.random.default_rng(0)
    for name, held in engine.held.items():
        if is_adapter(name) or "prefix" in name:
            held.tensor.set_value(random.standard_normal(held.tensor.shape, np.float32) * 0.3)
    return engine


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_of_every_family(family, zoo_evidence):
    zoo_evidence(family.removesuffix("2"), "generation", tier="T1", model=FAMILIES[family])
    beams_are_worth_what_they_say(make_engine(FAMILIES[family]))


def some(quick: list[str], *slow: str) -> list[Any]:
    return [*quick, *(pytest.param(family, marks=pytest.mark.soak) for family in slow)]


@pytest.mark.parametrize("family", some(["llama", "bloom", "chatglm"], "qwen", "gpt3", "deepseek_v3"))
def test_adapters(family):
    engine = tuned(family, lora=LoraSpec(rank=4))
    found = rows_that_join_late_get_what_they_get_alone(engine)
    beams_are_worth_what_they_say(engine)
    assert found != [alone(make_engine(FAMILIES[family]), row, Rules(DRAWN)) for row in rows_of(engine)]


@pytest.mark.parametrize("family", some(["llama", "chatglm"], "bloom", "opt"))
def test_prefixes(family):
    engine = tuned(family, prefix=PrefixSpec(5))
    found = rows_that_join_late_get_what_they_get_alone(engine)
    beams_are_worth_what_they_say(engine)
    assert found != [alone(make_engine(FAMILIES[family]), row, Rules(DRAWN)) for row in rows_of(engine)]
