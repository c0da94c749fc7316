"""Prefixes equal PEFT on transformers: logits, loss, every gradient, five steps of AdamW, and files both ways."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import GOLDEN, REPOSITORY, single  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.engine.build import from_both  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.engine.state import from_checkpoint  # noqa: E402
from zoo_core.errors import CheckpointError  # noqa: E402
from zoo_core.layout import split  # noqa: E402
from zoo_core.peft import PrefixSpec, is_adapter  # noqa: E402
from zoo_core.peft.prefix import attention_names  # noqa: E402
from zoo_core.peft.prefix_files import PrefixFiles, prefix_folder, prefix_spec, write_peft_prefix  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_core.testing.models import next_token_loss  # noqa: E402
from zoo_ops import Batch, after_prefix, set_dropout_state  # noqa: E402

CASES = sorted(path.parent.name for path in GOLDEN.glob("*/prefix.safetensors"))
PLAIN = [case for case in CASES if not case.endswith("_projected")]
PROJECTED = "prefix_llama_projected"


def base_of(case):
    return REPOSITORY / json.loads((GOLDEN / case / "adapter_config.json").read_text())["base_model_name_or_path"]


def parts_of(case, folder=None):
    found = find(str(base_of(case)))
    dropouts = {f.name: 0.0 for f in fields(found.config) if "dropout" in f.name}  # PEFT ran in evaluation mode
    config = found.config.replace(**dropouts)
    return found.architecture, config, found.architecture.pipe_layers(config)


def projection(golden, elements, kind):
    """The tensors of PEFT's prompt encoder by our names: a Linear of theirs is the transpose, and holds all layers."""
    first = elements[0].prefix
    found = {
        f"{first}.prefix_embedding": golden[f"{kind}.embedding.weight"],
        f"{first}.prefix_dense_weight": golden[f"{kind}.transform.0.weight"].T,
        f"{first}.prefix_dense_bias": golden[f"{kind}.transform.0.bias"],
    }
    names = [f"{name}.prefix_{which}" for name in attention_names(elements) for which in ("key", "value")]
    weights = np.split(golden[f"{kind}.transform.2.weight"].T, len(names), axis=1)
    biases = np.split(golden[f"{kind}.transform.2.bias"], len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        found |= {f"{name}_weight": weight, f"{name}_bias": bias}
    return found


def engine_of(case, settings=None, folder=None):
    """The base of a case with PEFT's prefix, read from PEFT's files; a projection from the golden file."""
    architecture, config, elements = parts_of(case)
    mesh = single(architecture, config)
    with (
        Reader(base_of(case), architecture.table(config)) as reader,
        PrefixFiles(prefix_folder(folder or GOLDEN / case), elements, config) as files,
    ):
        spec, values = files.spec, files.source()
        if case == PROJECTED and folder is None:
            golden = load_file(GOLDEN / case / "prefix.safetensors")
            spec, ours = PrefixSpec(spec.tokens, hidden=24), projection(golden, elements, "value")
            values = lambda rule: np.ascontiguousarray(ours[rule.name])  # noqa: E731
        source = from_both(from_checkpoint(reader, mesh), values)
        return Engine(mesh, architecture, config, source, settings=settings, prefix=spec)


def gradients(case, golden):
    """PEFT's gradients by our names."""
    architecture, config, elements = parts_of(case)
    if case == PROJECTED:
        return projection(golden, elements, "grad")
    names = [f"{name}.prefix_{which}" for name in attention_names(elements) for which in ("key", "value")]
    return dict(zip(names, np.split(golden["grad.embedding.weight"], len(names), axis=1), strict=True))


def test_there_are_the_families_of_the_agreement():
    assert {"prefix_llama", "prefix_qwen2", "prefix_gpt2", "prefix_bloom", PROJECTED} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(case):
    golden = load_file(GOLDEN / case / "prefix.safetensors")
    engine = engine_of(case)
    engine.layers.train()
    set_dropout_state(0, 0)
    ids = paddle.to_tensor(golden["input_ids"])
    logits = engine.layers.through(None, after_prefix(Batch(input_ids=ids), engine.prefix.tokens))
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=1e-5, atol=1e-5)
    loss = next_token_loss(logits, ids)
    np.testing.assert_allclose(float(loss), golden["loss"], rtol=1e-5)
    loss.backward()
    wanted = gradients(case, golden)
    for name, held in engine.held.items():
        if is_adapter(name):
            np.testing.assert_allclose(held.tensor.grad.numpy(), wanted.pop(name), rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert held.tensor.stop_gradient and held.tensor.grad is None, name
    assert not wanted


@pytest.mark.parametrize("case", CASES)
def test_steps_of_adamw(case):
    golden = load_file(GOLDEN / case / "prefix.safetensors")
    engine = engine_of(case, OptimizerSettings(max_grad_norm=0.0))
    ids = golden["input_ids"]
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:].copy()}
    found = [engine.train_step([batch], 1e-2).loss for _ in golden["losses"]]
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_padding_on_the_left(case):
    golden = load_file(GOLDEN / case / "prefix.safetensors")
    mask = golden["attention_mask"]
    assert (mask[-1, :3] == 0).all()
    logits = engine_of(case).logits({"input_ids": golden["input_ids"], "attention_mask": mask}).numpy()
    real = mask.astype(bool)
    np.testing.assert_allclose(logits[real], golden["padded_logits"][real], rtol=1e-5, atol=1e-5)


def test_what_a_projection_gives_is_what_peft_saves():
    golden = load_file(GOLDEN / PROJECTED / "prefix.safetensors")
    logits = engine_of(PROJECTED, folder=GOLDEN / PROJECTED).logits({"input_ids": golden["input_ids"]}).numpy()
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", PLAIN)
def test_peft_files_come_back_bit_for_bit(case, tmp_path):
    _, config, elements = parts_of(case)
    with PrefixFiles(GOLDEN / case, elements, config) as files:
        write_peft_prefix(tmp_path / "out", files, elements, config)
    theirs, ours = (load_file(folder / "adapter_model.safetensors") for folder in (GOLDEN / case, tmp_path / "out"))
    assert theirs.keys() == ours.keys() == {"prompt_embeddings"}
    np.testing.assert_array_equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])
    settings = json.loads((GOLDEN / case / "adapter_config.json").read_text())
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {key: settings[key] for key in written} == written


def test_each_rank_reads_its_part():
    case = "prefix_llama"
    _, config, elements = parts_of(case)
    with PrefixFiles(GOLDEN / case, elements, config) as files:
        for name, rule in files.rows.items():
            whole = files.read(name)
            for degree in (2, 4):  # two key/value heads: at 4 each is held twice
                for rank in range(degree):
                    part = files.read(name, degree, rank)
                    np.testing.assert_array_equal(part, split(whole, rule, degree, rank))
                    assert part.shape == (5, whole.shape[1] // 2)


def broken(tmp_path, case="prefix_llama", **changes):
    folder = tmp_path / "prefix"
    shutil.copytree(GOLDEN / case, folder)
    settings = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_refusals_name_what_is_wrong(tmp_path):
    _, config, elements = parts_of("prefix_llama")
    with pytest.raises(CheckpointError, match="there is no folder"):
        prefix_folder(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no prefix in"):
        prefix_folder(GOLDEN / "llama")  # an adapter of PEFT, but LoRA's
    with pytest.raises(CheckpointError, match=r"\[5, 48\], this model's is \[5, 96\]|this model's is"):
        PrefixFiles(GOLDEN / "prefix_bloom", elements, config)
    folder = broken(tmp_path, num_virtual_tokens="many")
    with pytest.raises(CheckpointError, match="not whole"):
        prefix_spec(folder)
    (folder / "adapter_model.safetensors").unlink()
    broken_again = json.loads((GOLDEN / "prefix_llama" / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(broken_again))
    with pytest.raises(CheckpointError):
        PrefixFiles(folder, elements, config)
    (tmp_path / "paddle").mkdir()
    (tmp_path / "paddle" / "prefix_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="PaddleNLP"):
        prefix_folder(tmp_path / "paddle")
