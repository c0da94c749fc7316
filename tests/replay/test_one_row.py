"""Passes of one token over one row, replayed: the model's tokens, whatever happens to its cache in between."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generate"))

from decoding_models import DRAWN, FAMILIES, GREEDY, make_engine, prompts  # noqa: E402

from zoo_core.generate import EnginePasses, Pool, Row, Rules, beam_search, load_model  # noqa: E402
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter  # noqa: E402
from zoo_core.quantization import QuantSpec  # noqa: E402
from zoo_core.replay import one_row as module  # noqa: E402
from zoo_core.replay.one_row import OneRow, one_row  # noqa: E402

CONTEXT = 80
RULES = Rules(GREEDY, logprobs=0)


@pytest.fixture(autouse=True)
def narrow_windows(monkeypatch):
    """Windows of 16, 32, 64 and 79 columns."""
    monkeypatch.setattr(module, "_LEAST", 16)


def replaying(engine, in_use=lambda: "", before=0):
    return OneRow(engine, CONTEXT, in_use, before)


def tuned(family, **more):
    """A model with adapters or a prefix that matter."""
    engine, random = make_engine(FAMILIES[family], **more), np.random.default_rng(0)
    for name, held in engine.held.items():
        if is_adapter(name) or "prefix" in name:
            held.tensor.set_value(random.standard_normal(held.tensor.shape, np.float32) * 0.3)
    return engine


def run(passes, plan, slots=1, chunk=512):
    """The steps of rows that come with the pass of that number: [(pass, row, rules)]."""
    pool, found, number, waiting = Pool(passes, slots, CONTEXT, chunk), {}, 0, list(plan)
    while waiting or pool.free < slots:
        while waiting and waiting[0][0] <= number:
            found[pool.add(*waiting.pop(0)[1:])] = []
        for ticket, step in pool.step().items():
            found[ticket].append((step.token, step.logprob))
        number += 1
    return list(found.values())


def same(found, wanted):
    assert len(found) == len(wanted) > 0
    for own, other in zip(found, wanted, strict=True):
        assert [token for token, _ in own] == [token for token, _ in other]
        np.testing.assert_allclose([p for _, p in own], [p for _, p in other], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deepseek_v3"])
def test_a_text_is_the_models(family, capfd):
    engine = make_engine(FAMILIES[family])
    row, own = Row(prompts(engine)[0], 40), replaying(engine)
    plan = [(0, row, RULES)]
    same(run(EnginePasses(engine, own), plan), run(EnginePasses(engine), plan))
    windows = 3  # 9 or 11 tokens, and 39 behind them; the first pass of a window is the model's own
    assert own.replayed == 39 - windows
    same(run(EnginePasses(engine, own), plan), run(EnginePasses(engine), plan))
    assert own.replayed == 39 - windows + 39
    assert capfd.readouterr().err == ""


def test_what_numpy_cannot_do_is_left_to_the_model():
    engine = make_engine(FAMILIES["deepseek_v3"])
    own, plan = replaying(engine), [(0, Row(prompts(engine)[0], 12), RULES)]
    assert run(EnginePasses(engine, own), plan) == run(EnginePasses(engine), plan)
    assert own.replayed == 0


def test_programs_that_are_not_the_model_are_not_used(monkeypatch):
    engine = make_engine(FAMILIES["llama"])
    own, plan = replaying(engine), [(0, Row(prompts(engine)[0], 30), RULES)]
    monkeypatch.setattr(module, "_near", lambda found, wanted: False)
    assert run(EnginePasses(engine, own), plan) == run(EnginePasses(engine), plan)
    assert own.replayed == 0


def test_a_few_tokens_are_not_worth_a_program():
    engine = make_engine(FAMILIES["llama"])
    own, plan = replaying(engine, before=10), [(0, Row(prompts(engine)[0], 12), RULES)]
    run(EnginePasses(engine, own), plan)
    assert own.replayed == 0
    run(EnginePasses(engine, own), plan)
    assert own.replayed == 10  # the first pass of a window is compared with the model's


@pytest.mark.parametrize("family", ("llama", "chatglm", "bloom", "glm"))
def test_rows_that_join_and_leave(family):
    """Rows are alone, then in company, then alone with columns that are hidden, and one takes another's place."""
    engine = make_engine(FAMILIES[family])
    first, second, third = prompts(engine, (6, 9, 3))
    plan = [
        (0, Row(first, 14), RULES), (5, Row(second, 20), RULES), (24, Row(third, 30), RULES),
        (60, Row(first, 8, 3), Rules(DRAWN, logprobs=0)),
    ]  # fmt: skip
    own = replaying(engine)
    same(run(EnginePasses(engine, own), plan, 2, 4), run(EnginePasses(engine), plan, 2, 4))
    assert own.replayed > 20


def test_a_row_that_takes_the_place_of_another_between_two_passes():
    engine = make_engine(FAMILIES["llama"])
    own, ids = replaying(engine), np.asarray(prompts(engine, (8, 8)))
    found = []
    for passes in (EnginePasses(engine, own), EnginePasses(engine)):
        cache, token = passes.cache(2, 20), np.asarray([[7]])
        passes.read(cache, ids[:1], None, np.arange(8)[None])
        for position in (8, 9, 10):
            passes.read(cache, token, None, np.asarray([[position]]))
        other = passes.cache(1, 20)
        passes.read(other, np.concatenate([ids[1:], ids[1:, :3]], axis=1), None, np.arange(11)[None])
        cache.join(other)
        cache.keep([1])
        found.append(passes.read(cache, token, None, np.asarray([[11]])))
        cache.truncate(9)
        found.append(passes.read(cache, token, None, np.asarray([[9]])))
    np.testing.assert_allclose(found[:2], found[2:], rtol=1e-4, atol=1e-4)
    assert own.replayed == 4


def test_beams_of_one():
    engine = make_engine(FAMILIES["qwen"])
    own, rows = replaying(engine), [Row(ids, 9) for ids in prompts(engine)]
    wanted = beam_search(EnginePasses(engine), rows, Rules(GREEDY), 3, num_return_sequences=2)
    found = beam_search(EnginePasses(engine, own), rows, Rules(GREEDY), 3, num_return_sequences=2)
    assert [[beam.tokens for beam in row] for row in found] == [[beam.tokens for beam in row] for row in wanted]


def test_adapters_take_turns_in_the_middle_of_a_text():
    engine, in_use = tuned("llama", lora=LoraSpec(rank=4)), [""]
    kept = {name: (dict(layer._parameters), layer.scale) for name, layer in engine.adapted.items()}

    def use(name):
        in_use[0] = name
        for module_name, layer in engine.adapted.items():
            own, scale = kept[module_name]
            adapter = (own["lora_A"], own["lora_B"], scale * (2 if name == "b" else 1))
            layer.set_adapter(*(adapter if name else (None, None, 1.0)))

    def text(passes, changing):
        pool, found = Pool(passes, 1, CONTEXT), []
        pool.add(Row(prompts(engine)[0], 30), RULES)
        for step in range(30):
            if changing:
                use(("", "a", "b", "a", "")[step // 6])
            found += [(one.token, one.logprob) for one in pool.step().values()]
        return found

    own = replaying(engine, lambda: in_use[0])
    wanted = text(EnginePasses(engine), True)
    same([text(EnginePasses(engine, own), True)], [wanted])
    assert own.replayed > 15
    widths, blocks = {size for _, size in own._windows}, engine.config.num_hidden_layers
    assert len(own._windows) > len(widths) and len(own._shared) == 2 * blocks * len(widths)
    use("")
    assert text(EnginePasses(engine), False) != wanted


@pytest.mark.parametrize("family", ("llama", "bloom"))
def test_prefixes(family):
    engine = tuned(family, prefix=PrefixSpec(5))
    own, plan = replaying(engine), [(0, Row(prompts(engine)[0], 20), RULES)]
    wanted = run(EnginePasses(engine), plan)
    same(run(EnginePasses(engine, own), plan), wanted)
    assert own.replayed > 15
    assert run(EnginePasses(make_engine(FAMILIES[family])), plan) != wanted


def test_large_arrays_that_follow_from_weights_are_there_once(monkeypatch):
    """Baichuan2 multiplies by a head whose rows it has normalised."""
    from zoo_core.replay import program

    monkeypatch.setattr(program, "_LARGE", 1 << 12)
    engine = make_engine(FAMILIES["baichuan"])
    own, plan = replaying(engine), [(0, Row(prompts(engine)[0], 40), RULES)]
    same(run(EnginePasses(engine, own), plan), run(EnginePasses(engine), plan))
    heads = [part for name, part in own._shared.items() if "op." in name]
    assert own.replayed == 36 and len(own._windows) == 3 and heads
    run(EnginePasses(engine, own), [(0, Row(prompts(engine)[0], 70), RULES)])
    assert len(own._windows) == 4
    now = [part for name, part in own._shared.items() if "op." in name]
    assert len(now) == len(heads) and all(a is b for a, b in zip(now, heads, strict=True))


def test_models_that_are_not_plain_have_no_programs():
    engine = make_engine(FAMILIES["llama"])
    assert one_row(engine, CONTEXT, lambda: "") is not None
    engine.is_plain = False
    assert one_row(engine, CONTEXT, lambda: "") is None
    engine.is_plain, engine.config = True, engine.config.replace(quantization_config=QuantSpec())
    assert one_row(engine, CONTEXT, lambda: "") is None


def test_a_loaded_model_replays_and_follows_its_adapter(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
    from serve_models import make_adapter, make_model

    folder = make_model(tmp_path)
    model = load_model(folder, adapters={"poems": make_adapter(tmp_path / "poems", folder)})
    rules, row = Rules(GREEDY, logprobs=0), Row(model.encode("In the beginning"), module.BEFORE + 8)

    def text(passes):
        pool, found = Pool(passes, 1, len(row.ids) + row.max_new_tokens), []
        pool.add(row, rules)
        while steps := pool.step():
            found += [(step.token, step.logprob) for step in steps.values()]
        return found

    found, wanted = {}, {}
    for name in ("", "poems"):
        for adapter in ("", "poems"):
            model.use(adapter)
            found[name, adapter], wanted[adapter] = text(model.passes()), text(EnginePasses(model.engine))
    for (_, adapter), own in found.items():
        same([own], [wanted[adapter]])
    assert wanted[""] != wanted["poems"]
    assert model._one_row.replayed > 3 * module.BEFORE
