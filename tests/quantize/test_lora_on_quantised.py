"""Adapters beside quantised weights: the numbers of the dequantised model, on one process and on two."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "parallel")]

import quantised_worker as worker  # noqa: E402
from parallel_jobs import Results  # noqa: E402
from quantised_models import engine_over, fields, plain_folder, quantise, single_mesh, with_dense  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.checkpoint.dequantised import DequantisedReader  # noqa: E402
from zoo_core.cli import main  # noqa: E402
from zoo_core.engine.build import from_both, from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.engine.state import from_checkpoint  # noqa: E402
from zoo_core.peft import LoraSpec, is_adapter  # noqa: E402
from zoo_core.quantization import QuantSpec  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_core.train.integers import rounded_when_read  # noqa: E402

SIZES = {"intermediate_size": 128}  # so that groups of 16 split over two ranks
KINDS = {
    "int8": ("llama", QuantSpec()),
    "int4": ("llama", QuantSpec(bits=4, group_size=16, symmetric=False)),
    "ordered": ("llama", QuantSpec("gptq", bits=4, group_size=16, act_order=True, static_groups=False)),
    "gptq3": ("llama", QuantSpec("gptq", bits=3, group_size=16)),
    "w8a8": ("llama", QuantSpec("w8a8", smooth=True)),
    "static": ("qwen", QuantSpec("w8a8", activations="static")),
    "experts": ("deepseek_v3", QuantSpec()),
}
QUICK = [
    *(("int8", layout) for layout in ("tp2", "pp2", "sharding2-stage3")),
    *((kind, "tp2") for kind in ("ordered", "w8a8")),
]
SOAK = [
    *(("int8", layout) for layout in ("tp2+sp", "sharding2-stage2")),
    *((kind, "tp2") for kind in ("int4", "gptq3", "static", "experts")),
]
LAYOUTS = [
    *(pytest.param(*case, id="-".join(case)) for case in QUICK),
    *(pytest.param(*case, id="-".join(case), marks=pytest.mark.soak) for case in SOAK),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Quantised folders by kind, with the arrays and the folder before; made when they are asked for."""
    root, made = tmp_path_factory.mktemp("kinds"), {}

    def of(kind):
        if kind not in made:
            family, spec = KINDS[kind]
            base = plain_folder(family, root / f"{kind}-base", **(SIZES if family == "llama" else {}))
            made[kind] = (*quantise(base, root / kind, spec), base)
        return made[kind]

    return of


@pytest.fixture(scope="module")
def ranks(folders, request, tmp_path_factory):
    """What two processes found, in one launch."""
    results = Results(tmp_path_factory.mktemp("ranks"), Path(worker.__file__))
    params = [item.callspec.params for item in request.session.items if "ranks" in getattr(item, "fixturenames", ())]
    wanted = sorted({(one["layout"], one["kind"]) for one in params})
    results.run(
        [{"id": f"{kind}@{layout}", "folder": str(folders(kind)[0]), "layout": layout} for layout, kind in wanted], 2
    )
    return results


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_two_ranks_equal_one(folders, ranks, kind, layout, zoo_evidence):
    family = KINDS[kind][0]
    zoo_evidence(family, "compression", tier="T2")
    found, single = ranks.of(f"{kind}@{layout}"), worker.trained(str(folders(kind)[0]), "single")
    np.testing.assert_allclose(found["logits"], single["logits"], rtol=1e-4, atol=2e-5)
    # where activations are rounded, a number on the edge may fall to either side on the way back, too
    near = {"rtol": 2e-5} if KINDS[kind][1].method != "w8a8" else {"rtol": 2e-3}
    np.testing.assert_allclose(found["steps"], single["steps"], **near)
    assert all(norm > 0 for _, norm in single["steps"])


def tuned(engine, config):
    batch = {**fields(config), "labels": fields(config, seed=2)["input_ids"]}
    results = [engine.train_step([batch], 0.05) for _ in range(2)]
    return [(result.loss, result.grad_norm) for result in results]


def over(folder, spec, reader=None, config=None):
    """A model with adapters to train."""
    found = find(str(folder))
    config = config or found.config
    mesh = single_mesh(found.architecture, config)
    with reader or Reader(folder, found.architecture.table(config)) as opened:
        source = from_both(from_checkpoint(opened, mesh), from_seed(3, config, 1, 0))
        return Engine(mesh, found.architecture, config, source, settings=OptimizerSettings(), lora=spec), config


@pytest.mark.parametrize("kind", ["int8", "int4", "ordered", "gptq3", "experts"])
def test_a_step_is_that_of_the_dequantised_model(folders, kind):
    folder, arrays, base = folders(kind)
    spec = LoraSpec(rank=2, alpha=8.0)
    (found, config), (plain, _) = over(folder, spec), over(base, spec)
    reference = with_dense(plain, arrays)
    np.testing.assert_allclose(tuned(found, config), tuned(reference, config), rtol=1e-5)
    for name, held in found.held.items():
        if is_adapter(name):
            wanted = reference.held[name].tensor.numpy()
            np.testing.assert_allclose(held.tensor.numpy(), wanted, rtol=1e-2, atol=1e-4, err_msg=name)
    assert {state.name for state in found.updater.states()} == {name for name in found.held if is_adapter(name)}


def test_the_reader_of_numbers_gives_the_same_model(folders):
    folder, arrays, base = folders("int4")
    found = find(str(folder))
    plain = found.config.replace(quantization_config=None)
    table = found.architecture.table(plain)
    with DequantisedReader(folder, table, None, found.config.quantization_config) as reader:
        assert reader.check() == ()
        for module, array in arrays.items():
            name = f"{module}.weight"
            assert reader.has(name) and reader.dtype_of(name) == "float32"
            np.testing.assert_array_equal(reader.read_local(name), array.dense())
            half = reader.read_local(name, 2, 1)
            assert half.size * 2 == array.q_IO.size
            np.testing.assert_array_equal(reader.read_local(name, flat=(3, 9)), array.dense().reshape(-1)[3:9])
    with Reader(base, table) as reader:
        name = next(name for name in table if "embed" in name)
        before = reader.read_local(name)
    with DequantisedReader(folder, table, None, found.config.quantization_config) as reader:
        np.testing.assert_array_equal(reader.read_local(name), before)


def test_weights_are_rounded_as_they_are_read(folders):
    """weight_quantize_algo gives what the folder of int8 weights holds, on any rank."""
    folder, _, base = folders("int8")
    found = find(str(folder))
    table, plain = found.architecture.table(found.config), find(str(base))
    with Reader(base, plain.architecture.table(plain.config)) as numbers, Reader(folder, table) as integers:
        for degree, rank in ((1, 0), (2, 0), (2, 1)):

            def local(rule, degree=degree, rank=rank):
                return numbers.read_local(rule.name, degree, rank)

            def whole(rule):
                return numbers.read_local(rule.name, dtype="float32")

            source = rounded_when_read(local, whole, table, QuantSpec(), degree, rank)
            for name, rule in table.items():
                np.testing.assert_array_equal(source(rule), integers.read_local(name, degree, rank), err_msg=name)


def test_converting_writes_numbers(folders, tmp_path, capsys):
    folder, arrays, _ = folders("int8")
    for to in ("hf", "zoo"):
        assert main(["convert", str(folder), str(tmp_path / to), "--to", to]) == 0
        assert "as numbers" in capsys.readouterr().out
        assert "quantization_config" not in (tmp_path / to / "config.json").read_text()
        engine = engine_over(tmp_path / to)
        for module, array in arrays.items():
            np.testing.assert_array_equal(engine.held[f"{module}.weight"].tensor.numpy(), array.dense())


def refused(words, capsys):
    assert main(words) == 2
    return capsys.readouterr().err


def test_what_integers_cannot_do_is_refused(folders, tmp_path, capsys):
    folder, _, base = folders("int8")
    run = ["--device", "cpu", "--output_dir", str(tmp_path / "out"), "--dataset_name_or_path", str(tmp_path)]
    model = ["--model_name_or_path", str(folder)]
    assert "integers have no gradients" in refused(["run", "sft", *model, *run], capsys)
    assert "a quantised model" in refused(["run", "lora", *model, "--scale", "tiny", *run], capsys)
    algorithm = ["--weight_quantize_algo", "weight_only_int8"]
    assert "of a quantised model" in refused(["run", "lora", *model, *algorithm, *run], capsys)
    plain = ["--model_name_or_path", str(base)]
    assert "without LoRA" in refused(["run", "sft", *plain, *algorithm, *run], capsys)
    assert "nf4 is not supported" in refused(["run", "lora", *plain, *algorithm[:1], "nf4", *run], capsys)
    assert not (tmp_path / "out").exists()


def test_groups_that_ranks_would_cut_end_before_any_process(tmp_path, capsys):
    spec = QuantSpec("gptq", bits=4, group_size=64)
    folder, _ = quantise(plain_folder("llama", tmp_path / "base", intermediate_size=192), tmp_path / "q", spec)
    for words in (["plan", str(folder), "--world", "2", "--tp", "2"], ["layout", str(folder), "--tp", "2"]):
        said = refused(words, capsys)
        assert "o_proj has 1 group of 64 input features, which 2 ranks would cut" in said
