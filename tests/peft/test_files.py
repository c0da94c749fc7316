"""Adapters in the files of others: PEFT's and PaddleNLP's, in and out; what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import GOLDEN, REPOSITORY  # noqa: E402

from zoo_core.errors import CheckpointError  # noqa: E402
from zoo_core.peft.export import write_peft  # noqa: E402
from zoo_core.peft.files import AdapterFiles, adapter_folder, base_and_adapter, open_adapter  # noqa: E402
from zoo_core.registry import find  # noqa: E402

FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


def base_of(case):
    path = REPOSITORY / json.loads((GOLDEN / case / "adapter_config.json").read_text())["base_model_name_or_path"]
    return find(str(path))


def table_of(case, **changes):
    found = base_of(case)
    return found.architecture.table(found.config.replace(**changes))


def copy_of(case, folder, tensors=None, **settings):
    """A copy of a golden adapter with other tensors, or other settings."""
    shutil.copytree(GOLDEN / case, folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, **settings}))
    if tensors is not None:
        save_file({name: np.ascontiguousarray(v) for name, v in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def held(case):
    return load_file(GOLDEN / case / "adapter_model.safetensors")


@pytest.mark.parametrize("case", ["llama", "qwen2", "bloom", "llama_some"])
def test_peft_in_and_out_again(case, tmp_path):
    table = table_of(case)
    with AdapterFiles(GOLDEN / case, table) as files:
        write_peft(tmp_path / "out", table, files.spec, files.modules, files.read)
    theirs, ours = held(case), load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    expected = json.loads((GOLDEN / case / "adapter_config.json").read_text())
    for key in ("r", "lora_alpha", "use_rslora", "fan_in_fan_out", "bias", "peft_type"):
        assert written[key] == expected[key], key


def test_projections_that_are_one_tensor_there(tmp_path):
    """GPT-2's c_attn: three adapters of ours are one of three times the rank, with the same product."""
    table = table_of("gpt2")
    with AdapterFiles(GOLDEN / "gpt2", table) as files:
        write_peft(tmp_path / "out", table, files.spec, files.modules, files.read)
        with AdapterFiles(tmp_path / "out", table) as again:
            for module in files.modules:
                np.testing.assert_allclose(again.product(module), files.product(module), rtol=1e-6, atol=1e-7)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["rank_pattern"] == {f"transformer.h.{layer}.attn.c_attn": 12 for layer in range(2)}
    assert settings["fan_in_fan_out"]


def test_fused_projections_need_one_A(tmp_path):
    table, tensors = table_of("llama", **FUSED), held("llama")
    with pytest.raises(CheckpointError, match="are not of one layer") as error:
        AdapterFiles(GOLDEN / "llama", table)
    assert "fuse_attention_qkv" in error.value.todo
    found = base_of("llama")
    files, config = open_adapter(found.architecture, found.config.replace(**FUSED), GOLDEN / "llama")
    files.reader.close()
    assert not config.fuse_attention_qkv
    for name in tensors:
        for first, others in (("q_proj", ("k_proj", "v_proj")), ("gate_proj", ("up_proj",))):
            if first in name and "lora_A" in name:
                tensors |= {name.replace(first, other): tensors[name] for other in others}
    shared = copy_of("llama", tmp_path / "shared", tensors)
    with AdapterFiles(shared, table) as fused, AdapterFiles(shared, table_of("llama")) as apart:
        at = "llama.layers.0.self_attn."
        joined = np.concatenate([apart.product(f"{at}{part}_proj") for part in "qkv"], axis=1)
        np.testing.assert_allclose(fused.product(f"{at}qkv_proj"), joined, rtol=1e-6, atol=1e-7)
        write_peft(tmp_path / "out", table, fused.spec, fused.modules, fused.read)
    out = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert out.keys() == tensors.keys()
    for name in out:
        np.testing.assert_array_equal(out[name], tensors[name])


def test_paddlenlp_in(tmp_path):
    table = table_of("llama")
    with AdapterFiles(GOLDEN / "llama", table) as files:
        state = {name: paddle.to_tensor(files.read(name)) for name in files.rows}
        paddle.save(state, str(tmp_path / "lora_model_state.pdparams"))
        settings = {"r": 4, "lora_alpha": 8, "target_modules": [".*q_proj.*"], "rslora": False}
        (tmp_path / "lora_config.json").write_text(json.dumps(settings))
        with AdapterFiles(tmp_path, table) as theirs:
            assert set(theirs.modules) == set(files.modules)
            for name in files.rows:
                np.testing.assert_array_equal(theirs.read(name), files.read(name))
                np.testing.assert_array_equal(theirs.read(name, 2, 1), files.read(name, 2, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "asks for DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"peft_type": "LOHA"}, "a LOHA adapter"),
    ],
)
def test_other_adapters_are_refused(settings, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        AdapterFiles(copy_of("llama", tmp_path / "copy", **settings), table_of("llama"))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="this model has no linear layer for it"):
        AdapterFiles(GOLDEN / "llama", table_of("bloom"))
    tensors = held("llama")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    with pytest.raises(CheckpointError):
        AdapterFiles(copy_of("llama", tmp_path / "part", tensors), table_of("llama"))
    narrow = {name: values[:, :-1] if "lora_A" in name else values for name, values in held("llama").items()}
    with pytest.raises(CheckpointError, match="has shape"):
        AdapterFiles(copy_of("llama", tmp_path / "narrow", narrow), table_of("llama"))
    with pytest.raises(CheckpointError, match="settings of the adapter"):
        AdapterFiles(copy_of("llama", tmp_path / "settings", r=None), table_of("llama"))


def test_where_an_adapter_is_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        adapter_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no adapter in"):
        adapter_folder(tmp_path)
    assert base_and_adapter(tmp_path) == (tmp_path, None)
    assert base_and_adapter("a/model", GOLDEN / "llama") == (Path("a/model"), GOLDEN / "llama")
    gone = copy_of("llama", tmp_path / "copy", base_model_name_or_path="/no/such/model")
    with pytest.raises(CheckpointError, match="its base model is not there") as error:
        base_and_adapter(gone)
    assert "--lora_path" in error.value.todo
