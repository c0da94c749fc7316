"""Greedy and beam search equal those of transformers on the same weights, token for token.

The goldens are made by `golden/make_decoding_golden.py`, which also sees to it that no choice is close.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core.checkpoint import Reader
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.state import from_checkpoint
from zoo_core.generate import Row, Rules, Sampling
from zoo_core.generate.beam import beam_search
from zoo_core.generate.passes import EnginePasses
from zoo_core.generate.pool import Pool
from zoo_core.plan import Request, compose
from zoo_core.registry import find
from zoo_core.replay.one_row import OneRow

GOLDEN = Path(__file__).parent / "golden"
MARGIN, ROUTER_MARGIN = 1e-4, 5e-6
FAMILIES = ("llama", "qwen2", "gpt2", "bloom", "opt", "deepseek_v3")
TITLES = {"qwen2": "qwen", "gpt2": "gpt3"}
EOS = [f"beam_eos_{penalty}_{early}" for penalty in (0, 1, 2) for early in ("true", "false", "never")]
GREEDY = ["greedy", "greedy_eos", "greedy_repetition", "greedy_min_new", "greedy_bad_words"]
BEAM = ["beam", "beam_rules", "beam_two_ends", *EOS]


@cache
def engine_of(family: str) -> Engine:
    """The model of a golden folder."""
    folder = GOLDEN / family
    found = find(str(folder))
    mesh = make_mesh(compose(Request(task="logits", device="cpu"), found.architecture, found.config, family))
    with Reader(folder, found.architecture.table(found.config)) as reader:
        return Engine(mesh, found.architecture, found.config, from_checkpoint(reader, mesh))


def passes_of(family: str) -> EnginePasses:
    """That model, as it is."""
    return EnginePasses(engine_of(family))


@cache
def told(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "decoding.json").read_text(encoding="utf-8"))


def wanted(family: str, case: str) -> np.ndarray:
    return load_file(GOLDEN / family / "decoding.safetensors")[case]


def rules_of(options: dict[str, Any]) -> Rules:
    ends = options.get("eos_token_id", [])
    return Rules(
        Sampling(temperature=0.0, repetition_penalty=options.get("repetition_penalty", 1.0)),
        ends=ends if isinstance(ends, list) else [ends],
        min_new_tokens=options.get("min_new_tokens", 0),
        bad_words=tuple(map(tuple, options.get("bad_words_ids", ()))),
    )


def rows_of(family: str, case: str) -> list[Row]:
    most = told(family)["cases"][case]["options"]["max_new_tokens"]
    return [Row(ids, most) for ids in told(family)["prompts"]]


def without_end(golden: np.ndarray, rules: Rules) -> list[list[int]]:
    """The tokens of a golden, as zoo gives them."""
    return [[token for token in row if token >= 0 and token not in rules.ends] for row in golden.tolist()]


def pooled(passes: EnginePasses, rows: list[tuple[Row, Rules]], chunk: int = 512) -> list[list[int]]:
    """What each row gets of a pool that all are added to at once."""
    pool = Pool(passes, len(rows), max(len(row.ids) + row.max_new_tokens for row, _ in rows), chunk)
    found: dict[int, list[int]] = {pool.add(row, rules): [] for row, rules in rows}
    while pool.free < len(rows):
        for ticket, step in pool.step().items():
            assert step.finish != "error"
            found[ticket] += [] if step.token is None else [step.token]
    return list(found.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_goldens_are_fair(family):
    cases = told(family)["cases"]
    assert set(cases) == {*GREEDY, *BEAM}
    assert min(case["margin"] for case in cases.values()) >= MARGIN
    assert told(family).get("router_margin", 1.0) >= ROUTER_MARGIN
    assert len({len(ids) for ids in told(family)["prompts"]}) == 4
    assert wanted(family, "greedy").shape == (4, 256) and wanted(family, "beam").shape == (8, 256)
    assert any((wanted(family, case) < 0).any() for case in EOS)


@pytest.mark.parametrize(("family", "penalty"), [("gpt2", 1), ("gpt2", 2), ("bloom", 1)])
def test_the_ways_to_stop_give_different_beams(family, penalty):
    found = {wanted(family, f"beam_eos_{penalty}_{early}").tobytes() for early in ("true", "false", "never")}
    assert len(found) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy(family, zoo_evidence):
    """All cases at once, each row with the rules of its case."""
    zoo_evidence(TITLES.get(family, family), "generation", tier="T1")
    rules = {case: rules_of(told(family)["cases"][case]["options"]) for case in GREEDY}
    rows = [(row, rules[case]) for case in GREEDY for row in rows_of(family, case)]
    expected = [row for case in GREEDY for row in without_end(wanted(family, case), rules[case])]
    assert pooled(passes_of(family), rows) == expected


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deepseek_v3"])
def test_greedy_by_replayed_passes(family):
    """256 tokens of a row alone, through several windows."""
    engine, (row, *_) = engine_of(family), rows_of(family, "greedy")
    one_row = OneRow(engine, engine.config.max_position_embeddings, str, before=0)
    found = pooled(EnginePasses(engine, one_row), [(row, Rules(Sampling(temperature=0.0)))])
    assert found == wanted(family, "greedy")[:1].tolist()
    assert one_row.replayed >= 250


def beam_cases() -> list[Any]:
    """Each family searches for 256 tokens; the other cases are in the quick tests once, in families where ways to stop
    that are alike end differently."""
    quick = {
        "llama": ("beam", "beam_rules", "beam_eos_2_true"),
        "qwen2": ("beam", "beam_two_ends", "beam_eos_0_true"),
        "gpt2": ("beam", "beam_eos_1_never", "beam_eos_2_false"),
        "bloom": ("beam", "beam_eos_1_false", "beam_eos_2_never"),
        "opt": ("beam", "beam_eos_0_false", "beam_eos_1_true"),
        "deepseek_v3": ("beam", "beam_eos_0_never"),
    }
    return [
        pytest.param(family, case, marks=[] if case in quick[family] else [pytest.mark.soak])
        for family in FAMILIES
        for case in BEAM
    ]


@pytest.mark.parametrize(("family", "case"), beam_cases())
def test_beam_search(family, case, zoo_evidence):
    zoo_evidence(TITLES.get(family, family), "generation", tier="T1")
    described = told(family)["cases"][case]
    options, rules = described["options"], rules_of(described["options"])
    more = {name: options[name] for name in ("length_penalty", "early_stopping") if name in options}
    rows = rows_of(family, case)
    found = beam_search(passes_of(family), rows, rules, options["num_beams"], num_return_sequences=2, **more)
    beams = [beam for row in found for beam in row]
    assert [list(beam.tokens) for beam in beams] == without_end(wanted(family, case), rules)
    np.testing.assert_allclose([beam.score for beam in beams], described["scores"], rtol=1e-5)
    for beam in beams:
        assert len(beam.logprobs) == len(beam.tokens) + (beam.finish == "stop")
        assert np.isclose(sum(beam.logprobs) / len(beam.logprobs) ** options["length_penalty"], beam.score)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_by_one_and_pieces_equal_the_whole(family):
    assert not passes_of(family).reads_prompt_at_once
    rules, rows = Rules(Sampling(temperature=0.0)), [Row(row.ids, 12) for row in rows_of(family, "greedy")]
    batch = [(row, rules) for row in rows]
    together = wanted(family, "greedy")[:, :12].tolist()
    assert [pooled(passes_of(family), [one])[0] for one in batch] == together
    assert pooled(passes_of(family), batch, chunk=3 * len(rows)) == together
    assert [pooled(passes_of(family), [one], chunk=3)[0] for one in batch] == together

    def tokens(rows: list[Row], chunk: int = 512) -> list[list[tuple[int, ...]]]:
        found = beam_search(passes_of(family), rows, rules, 3, num_return_sequences=3, chunk=chunk)
        return [[beam.tokens for beam in row] for row in found]

    found = tokens(rows)
    assert [tokens([row])[0] for row in rows] == found
    assert tokens(rows, chunk=3 * len(rows)) == found
