"""Rounding in training: against Paddle's own fake quantisation, and what comes out of a run that trained with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn.quant import quant_layers

sys.path.insert(0, str(Path(__file__).parent))

from quantised_models import engine_over, tiny  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.cli import main  # noqa: E402
from zoo_core.data.indexed import bin_path, idx_path, index_bytes  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.mesh import make_mesh  # noqa: E402
from zoo_core.engine.qat import QatSpec  # noqa: E402
from zoo_core.engine.state import from_checkpoint, load_states  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_ops.fake_quant import fake_quantise, faked  # noqa: E402
from zoo_ops.loss import IGNORE  # noqa: E402


@pytest.mark.parametrize("bits", [4, 8])
def test_rounds_as_paddle_does(bits):
    paddle.seed(1)
    linear, x = nn.Linear(16, 8), paddle.randn([5, 16])
    channel = quant_layers.FakeQuantChannelWiseAbsMax(
        name="w", channel_num=8, quant_bits=bits, quant_axis=1, quant_on_weight=True
    )
    whole = quant_layers.FakeQuantAbsMax(name="v", quant_bits=bits, quant_on_weight=True)
    close = {"rtol": 0, "atol": 3e-7}
    for theirs, per_channel in ((channel, True), (whole, False)):
        ours = faked(linear, (bits, bits), per_channel)
        np.testing.assert_allclose(ours.weight.numpy(), theirs(linear.weight).numpy(), **close)
    inputs = quant_layers.FakeQuantAbsMax(name="x", quant_bits=bits)
    ours = fake_quantise(x, x.abs().max().reshape([1]), bits)
    np.testing.assert_allclose(ours.numpy(), inputs(x).numpy(), **close)


def test_gradients_pass_the_rounding():
    paddle.seed(2)
    linear, x = nn.Linear(6, 4), paddle.randn([3, 6])
    layer = faked(linear, (8, 8), True)
    layer.input_span = 1.0  # less than the inputs: those beyond are cut, and have gradients all the same
    x.stop_gradient = False
    (layer(x) * paddle.arange(4, dtype="float32")).sum().backward()
    out_O = np.arange(4, dtype=np.float32)
    rounded_TI = np.clip(np.rint(x.numpy() * 127), -127, 127) / 127
    np.testing.assert_allclose(linear.weight.grad.numpy(), rounded_TI.sum(0)[:, None] * out_O, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), np.tile(layer.weight.numpy() @ out_O, (3, 1)), rtol=1e-5, atol=1e-6)


def test_spans_of_inputs_are_a_moving_average():
    architecture, config = tiny("gpt3", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    mesh = make_mesh(compose(Request(task="pretrain", device="cpu"), architecture, config))
    from zoo_core.engine.build import from_seed
    from zoo_core.engine.optimizer import OptimizerSettings

    engine = Engine(mesh, architecture, config, from_seed(1, config, 1, 0), settings=OptimizerSettings(), qat=QatSpec())
    name = "gpt.decoder.layers.1.linear2"
    layer = engine.layers.run[2].linear2
    assert layer.input_span == 0 and len(engine._stage.faked) == 12
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].abs().max())))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (3, 2, 12))
    for step in range(3):
        labels = np.concatenate([ids[step][:, 1:], np.full((2, 1), IGNORE)], axis=1)
        engine.train_step([{"input_ids": ids[step], "labels": labels}], 1e-3)
        weight_IO = engine.held[f"{name}.weight"].tensor.numpy()
        np.testing.assert_array_equal(layer.span.numpy(), np.abs(weight_IO).max(axis=0))
    weights = np.array([0.81, 0.9, 1.0])
    assert layer.input_span == pytest.approx((weights * seen).sum() / weights.sum(), rel=1e-6)
    before = layer.input_span
    engine.evaluate([{"input_ids": ids[0], "labels": labels}])
    assert layer.input_span == before and float(layer.seen) == 0, "an evaluation leaves the spans as they are"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("corpus") / "words"
    lengths = np.full(100, 40)
    tokens = np.random.default_rng(0).integers(0, 60, lengths.sum()).astype("<u2")
    bin_path(prefix).write_bytes(tokens.tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, np.arange(101), "<u2"))
    return prefix


FLEETX = """
Global: {{device: cpu, global_batch_size: 2, local_batch_size: 2, micro_batch_size: 2}}
Engine: {{max_steps: 4, eval_freq: 100, save_load: {{save_steps: 4, output_dir: {out}}}}}
Model: {{module: GPTModule}}
Optimizer: {{lr: {{max_lr: 1.0e-3}}}}
Compress:
  Quantization:
    enable: True
    weight_quantize_type: 'abs_max'
    activation_quantize_type: 'moving_average_abs_max'
    activation_preprocess_type: 'PACT'
    weight_bits: 8
    activation_bits: 8
    quantizable_layer_type: ['Linear', 'ColumnParallelLinear', 'RowParallelLinear']
    onnx_format: True
"""


def test_a_fleetx_recipe_trains_saves_and_becomes_integers(corpus, tmp_path, capfd):
    recipe = tmp_path / "qat.yaml"
    recipe.write_text(FLEETX.format(out=tmp_path / "out"))
    words = ["run", "pretrain", str(recipe), "--model", "gpt3-345M", "--scale", "tiny", "--input_dir", str(corpus)]
    words += ["--max_seq_length", "16", "--disable_tqdm", "--do_eval", "false"]
    assert main(words) == 0
    said = capfd.readouterr()
    assert "weights rounded to 8 bits by the span of each weight, inputs to 8 bits" in said.out
    assert "activation_preprocess_type" in said.out + said.err
    checkpoint = tmp_path / "out" / "checkpoint-4"
    kept = json.loads((checkpoint / "trainer_state.json").read_text())["qat"]
    assert len(kept["inputs"]) == 24 and kept["per_channel"] is False
    sizes = ["--samples", "2", "--length", "16", "--eval_samples", "4", "--data", str(corpus)]
    assert main(["compress", "qat", str(checkpoint), "--output", str(tmp_path / "small"), *sizes]) == 0
    assert "w8a8, 8 bits" in capfd.readouterr().out
    # the integers give what the rounded model gave
    found = find(str(checkpoint))
    mesh = make_mesh(compose(Request(task="pretrain", device="cpu"), found.architecture, found.config))
    from zoo_core.engine.optimizer import OptimizerSettings

    with Reader(checkpoint, found.architecture.table(found.config)) as reader:
        trained = Engine(
            mesh, found.architecture, found.config, from_checkpoint(reader, mesh), settings=OptimizerSettings(),
            qat=QatSpec(per_channel=False),
        )  # fmt: skip
        load_states(trained, reader)
    ids = np.random.default_rng(3).integers(0, 60, (2, 16))
    plain, ours, theirs = (
        engine.logits({"input_ids": ids}).numpy()
        for engine in (engine_over(checkpoint), trained, engine_over(tmp_path / "small"))
    )
    moved = np.abs(plain - ours).max()
    assert np.abs(theirs - ours).max() < 0.1 * moved, "sums of integers and of rounded numbers differ by rounding"
    # going on without rounding would not be the same training
    again = [*words, "--resume", str(checkpoint), "--max_steps", "5", "-o", "Compress.Quantization.enable=False"]
    assert main(again) == 2 and "is of quantisation-aware training" in capfd.readouterr().err


def test_refusals(corpus, tmp_path, capsys):
    words = ["--model", "gpt3-345M", "--scale", "tiny", "--input_dir", str(corpus), "--output_dir", str(tmp_path / "o")]
    words += ["--max_seq_length", "16"]

    def refused(*more, task="pretrain"):
        assert main(["run", task, *words, *more]) == 2 and not (tmp_path / "o").exists()
        return capsys.readouterr().err

    assert "do_qat does not combine with sharding stage3" in refused("--do_qat", "--sharding", "stage3", "--dry_run")
    told = refused("--do_gptq", "--gptq_step", "4", "--per_device_train_batch_size", "2")
    assert "zoo compress gptq" in told and "--samples 8" in told
    told = refused("--do_ptq", "--quant_type", "a8w8c8", "--smooth_all_linears")
    assert "zoo compress ptq" in told and "--quant_type a8w8" in told and "cache of keys and values" in told
