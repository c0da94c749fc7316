"""Compressing models of every kind: what is written runs as it was measured, and says what it cost.

Shape legend: N samples, S tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from quantised_models import engine_over, fields, plain_folder  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.cli import main  # noqa: E402
from zoo_core.data.encode import TokenizerSource  # noqa: E402
from zoo_core.errors import ConfigError, DataError, ZooError  # noqa: E402
from zoo_core.quantization import QuantSpec  # noqa: E402
from zoo_core.quantize.calibration import Texts, calibration_texts  # noqa: E402
from zoo_core.quantize.compress import Job, compress  # noqa: E402
from zoo_core.quantize.recipe import Compression, Recipe  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_core.tokenizers import train_bpe  # noqa: E402
from zoo_ops.loss import IGNORE  # noqa: E402

WORDS = "and the king said unto the people of the land go up in peace for the days of sorrow are ended".split()


def texts_of(config, calibration=12, held=6, length=24) -> Texts:
    """Made-up ids that every family takes."""
    ids = (fields(config, length, count, seed)["input_ids"] for count, seed in ((calibration, 1), (held, 2)))
    return Texts(*ids, source="made up")


def perplexity(folder: Path, ids_NS: np.ndarray) -> float:
    labels_NS = np.concatenate([ids_NS[:, 1:], np.full_like(ids_NS[:, :1], IGNORE)], axis=1)
    sums = engine_over(folder).evaluate([{"input_ids": ids_NS, "labels": labels_NS}])
    return float(np.exp(sums.loss / sums.tokens))


def compressed(source: Path, folder: Path, recipe: Recipe):
    found = find(str(source))
    texts = texts_of(found.config)
    return compress(Job(found, source, folder, {}), texts, recipe), texts


RECIPES = {
    "llama": (Recipe(QuantSpec("gptq", 4, 16, act_order=True)), Recipe(QuantSpec("w8a8", smooth=True), alpha=0.5)),
    "gpt3": (Recipe(QuantSpec("w8a8", activations="static"), alpha=0.5), Recipe(QuantSpec("gptq", 3, symmetric=False))),
    "chatglm": (Recipe(QuantSpec("w8a8"), alpha=0.5), Recipe(QuantSpec("gptq", 8), true_sequential=False)),
    "deepseek_v3": (Recipe(QuantSpec("gptq", 4, 16)), Recipe(QuantSpec(bits=3, group_size=32))),
}


@pytest.mark.parametrize("family", RECIPES)
def test_what_is_written_runs_as_it_was_measured(family, tmp_path):
    source = plain_folder(family, tmp_path / "plain")
    for number, recipe in enumerate(RECIPES[family]):
        report, texts = compressed(source, tmp_path / f"compressed{number}", recipe)
        assert report.ppl_before == pytest.approx(perplexity(source, texts.held), rel=1e-5)
        after = perplexity(tmp_path / f"compressed{number}", texts.held)
        # an activation next to the middle of two integers is rounded the other way where sums have another order
        close = 2e-4 if recipe.spec.method == "w8a8" else 1e-5
        assert report.ppl_after == pytest.approx(after, rel=close), recipe.spec.describe()
        kept = json.loads((tmp_path / f"compressed{number}" / "compression.json").read_text())
        assert kept["ppl_after"] == report.ppl_after and len(kept["layers"]) == len(report.layers)
        assert all(layer["bytes_after"] < layer["bytes_before"] for layer in kept["layers"])
        if recipe.spec.method == "gptq":
            assert all(layer.output_error < layer.rounded_error for layer in report.layers)
        assert report.layers[0].name in (tmp_path / f"compressed{number}" / "compression.txt").read_text()


def test_errors_of_the_report_are_their_definitions(tmp_path):
    """A Linear of the first block, whose input is known: what its layer gives before and after."""
    source = plain_folder("llama", tmp_path / "plain")
    report, texts = compressed(source, tmp_path / "out", Recipe(QuantSpec(bits=4)))
    plain, small = (engine_over(folder) for folder in (source, tmp_path / "out"))
    name = "llama.layers.0.self_attn.q_proj"
    layer = next(layer for layer in report.layers if layer.name == f"{name}.weight")
    seen = []
    block = plain.layers.run[1]
    hook = block.self_attn.q_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    plain.logits({"input_ids": texts.calibration})
    hook.remove()
    x_TI = seen[0].reshape(-1, seen[0].shape[-1]).astype(np.float64)
    before = plain.held[f"{name}.weight"].tensor.numpy()
    change = before - small.layers.run[1].self_attn.q_proj.weight.numpy()
    assert layer.weight_error == pytest.approx(np.linalg.norm(change) / np.linalg.norm(before), rel=1e-4)
    assert layer.output_error == pytest.approx(np.linalg.norm(x_TI @ change) / np.linalg.norm(x_TI @ before), rel=1e-3)
    assert layer.output_error == layer.rounded_error and layer.tokens == x_TI.shape[0]
    assert layer.bytes_before == before.size * 4 and layer.bytes_after == before.size // 2 + before.shape[1] * 4


def test_smoothing_goes_into_norms_only_where_nothing_else_reads_them(tmp_path):
    """ChatGLM's residual and OPT-350m's begin at a norm; Llama's do not. Folding changes nothing but the rounding."""
    for family, into in (("llama", 10), ("chatglm", 0), ("opt", 0)):
        source = plain_folder(family, tmp_path / family)
        report, _ = compressed(source, tmp_path / f"{family}-out", Recipe(QuantSpec("w8a8"), alpha=0.5))
        assert sum(layer.smooth == "norm" for layer in report.layers) == into
        assert all(layer.smooth in ("norm", "") for layer in report.layers)
    norm = "llama.layers.0.input_layernorm.weight"
    before, after = (engine_over(tmp_path / name).held[norm].tensor.numpy() for name in ("llama", "llama-out"))
    factors = before / after
    assert not np.allclose(factors, 1) and (np.exp2(np.rint(np.log2(factors))) == factors).all()


def test_layers_that_share_an_input_share_what_is_collected(tmp_path):
    source = plain_folder("llama", tmp_path / "plain")
    found = find(str(source))
    with Reader(source, found.architecture.table(found.config)) as reader:
        recipe = Recipe(QuantSpec("gptq", 4))
        work = Compression(found.architecture, found.config, reader, texts_of(found.config), recipe)
        names = [name.removeprefix("llama.layers.") for name, _ in work.layers()]
    own = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    own += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert names == [f"{number}.{name}" for number in (0, 1) for name in own], "in the order in which they run"


def test_an_expert_without_tokens_is_rounded_and_told(tmp_path):
    source = plain_folder("deepseek_v3", tmp_path / "plain")
    found = find(str(source))
    ids = fields(found.config, 2, 1)["input_ids"]  # two tokens do not reach every expert
    work_texts = Texts(ids, fields(found.config, 24, 2)["input_ids"], "two tokens")
    report = compress(Job(found, source, tmp_path / "out", {}), work_texts, Recipe(QuantSpec("gptq", 4)))
    idle = [layer for layer in report.layers if not layer.tokens]
    assert idle and all(".experts." in layer.name and layer.method.startswith("rtn") for layer in idle)
    assert any(f"reached {len(idle)} layers" in note for note in report.notes)
    assert np.isfinite(perplexity(tmp_path / "out", work_texts.held))
    with pytest.raises(DataError, match="no calibration token reached"):
        static = Recipe(QuantSpec("w8a8", activations="static"))
        compress(Job(found, source, tmp_path / "static", {}), work_texts, static)
    assert not (tmp_path / "static").exists() and not list(tmp_path.glob(".static*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer, and text for it."""
    place = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, 12)) for _ in range(200)]
    (place / "text.txt").write_text("\n\n".join(lines))
    (place / "text.jsonl").write_text("\n".join(json.dumps({"text": line, "other": 1}) for line in lines))
    bpe = train_bpe([place / "text.txt"], 280, place / "bpe")
    plain_folder("llama", place / "plain", {file.name: file for file in bpe.files})
    return place


def words_of(model: Path, out: Path, *more: str, method: str = "gptq", data: str = "text.txt") -> list[str]:
    sizes = ["--samples", "8", "--length", "16", "--eval_samples", "4"]
    return ["compress", method, str(model / "plain"), "--data", str(model / data), "--output", str(out), *sizes, *more]


def test_the_command_says_what_it_cost_and_writes_a_model(model, tmp_path, capsys):
    assert main(words_of(model, tmp_path / "out", "--bits", "4", "--group_size", "16", "--act_order")) == 0
    said = capsys.readouterr().out
    for part in ("gptq, 4 bits, groups of 16, act order", "before, ", "held out", "no int8 kernel", "down_proj"):
        assert part in said
    assert {"tokenizer.json", "compression.json", "compression.txt"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert main(["sample", str(tmp_path / "out"), "--prompt", "and the", "--max_new_tokens", "3"]) == 0
    capsys.readouterr()
    words = words_of(model, tmp_path / "w8a8", "--quant_type", "a8w8", method="ptq", data="text.jsonl")
    assert main(words) == 0 and "10 by the norm before" in capsys.readouterr().out


def test_refusals(model, tmp_path, capsys):
    def refused(*more, **kind):
        status = main(words_of(model, tmp_path / "out", *more, **kind))
        assert status == 2 and not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
        return capsys.readouterr().err

    assert "weights of 5 bits" in refused("--bits", "5")
    assert "group_size is 12" in refused("--group_size", "12")
    assert "are 96,000" in (said := refused("--samples", "5996")) and "fewer or shorter samples" in said
    assert "no input" in refused(data="nothing.txt")
    assert "no corpus" in refused(data="nothing")
    (model / "empty.txt").write_text("\n\n")
    assert "0 tokens" in refused(data="empty.txt")
    assert "has no text" in refused("--json_key", "missing", data="text.jsonl")
    assert "means no layer" in refused("--skip", "q_prj")
    assert "is for activations" in refused("--smooth", method="ptq")
    assert "does not shift" in refused("--shift", method="ptq")
    assert "was not trained to be rounded" in refused(method="qat")
    done = tmp_path / "done"
    assert main(words_of(model, done, "--bits", "8", "--group_size", "-1")) == 0
    capsys.readouterr()
    assert main(words_of(model, done)) == 2 and "exists" in capsys.readouterr().err
    words = words_of(model, tmp_path / "twice")
    words[2] = str(done)
    assert main(words) == 2 and "compressed already" in capsys.readouterr().err


def test_calibration_and_held_text_do_not_overlap(model):
    tokenizer = TokenizerSource(model / "plain")
    texts = calibration_texts(model / "text.txt", tokenizer, 512, samples=10, length=16, held=5, seed=1)
    assert texts.calibration.shape == (10, 16) and texts.held.shape == (5, 16)
    runs = {tuple(run[1:]) for run in texts.calibration.tolist()}
    assert len(runs) == 10 and not runs & {tuple(run[1:]) for run in texts.held.tolist()}
    again = calibration_texts(model / "text.txt", tokenizer, 512, samples=10, length=16, held=5, seed=1)
    np.testing.assert_array_equal(again.calibration, texts.calibration)
    other = calibration_texts(model / "text.txt", tokenizer, 512, samples=10, length=16, held=5, seed=2)
    assert (other.calibration != texts.calibration).any() and (other.held == texts.held).all()
    apart = calibration_texts(
        model / "text.txt", tokenizer, 512, samples=10, length=16, held=5, held_data=model / "text.jsonl"
    )
    assert apart.held.shape == (5, 16)
    with pytest.raises(ZooError, match="vocabulary of 20"):
        calibration_texts(model / "text.txt", tokenizer, 20, samples=2, length=16, held=1)


def test_a_spec_that_means_no_layer_ends_before_any_block(tmp_path):
    source = plain_folder("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match="means no layer"):
        compressed(source, tmp_path / "out", Recipe(QuantSpec(skip=("nothing",))))
