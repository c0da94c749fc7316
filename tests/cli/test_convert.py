"""`zoo convert` and `zoo merge` as a user meets them: what comes out, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zoo_core.checkpoint import Reader, latest_checkpoint, verify
from zoo_core.checkpoint.conversion import convert_folder, fitting_size
from zoo_core.checkpoint.disk import Disk
from zoo_core.cli import main
from zoo_core.errors import CheckpointError
from zoo_core.registry import registry


def tiny(name="meta-llama/Llama-2-7b", **changes):
    found = registry().find(name)
    scale = {**found.architecture.capabilities.scales["tiny"], "num_hidden_layers": 2, **changes}
    config = found.config.replace(**scale)
    return found.architecture.table(config), config


def published(table, seed=0):
    """Hugging Face's tensors, float32."""
    rng, found = np.random.default_rng(seed), {}
    for rule in table.values():
        if rule.single == rule.name and rule.hf and rule.hf_run is None:
            shape = rule.shape[::-1] if rule.hf_transposed else rule.shape
            found[rule.hf] = rng.standard_normal(shape).astype(np.float32)
        elif rule.single == rule.name and rule.hf_run is not None and rule.hf not in found:
            found[rule.hf] = rng.standard_normal((*rule.shape[:-1], rule.hf_run[1])).astype(np.float32)
    return found


def hf_folder(folder, name="meta-llama/Llama-2-7b", tokenizer=True, **changes):
    table, config = tiny(name, **changes)
    tensors = published(table)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text("{}")
    return tensors


def held(folder):
    return {n: a for path in sorted(folder.glob("*.safetensors")) for n, a in load_file(path).items()}


def equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def zoo(*words):
    return main([str(word) for word in words])


FAMILIES = ("meta-llama/Llama-2-7b", "qwen/qwen-7b", "Qwen/Qwen2-0.5B", "gpt3-345M", "bigscience/bloom-560m")


@pytest.mark.parametrize("model", FAMILIES)
def test_round_trips_through_every_form(tmp_path, model, capsys):
    tensors = hf_folder(tmp_path / "hf", model)
    assert zoo("convert", tmp_path / "hf", tmp_path / "zoo", "--to", "zoo", "--with_tokenizer") == 0
    verify(tmp_path / "zoo")
    assert {"tokenizer.json", "tokenizer_config.json", "manifest.json"} <= set(names(tmp_path / "zoo"))
    assert zoo("convert", tmp_path / "zoo", tmp_path / "paddle", "--to", "pdparams", "--split_num", 3) == 0
    assert len(list((tmp_path / "paddle").glob("*.pdparams"))) == 3
    assert zoo("convert", tmp_path / "paddle", tmp_path / "again", "--to", "hf", "--max_shard_size", "100KB") == 0
    equal(held(tmp_path / "again"), tensors)
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert "tensors" in capsys.readouterr().out
    for path in (tmp_path / "again").glob("*.safetensors"):
        assert path.stat().st_size < 200_000


def test_paddle_loads_what_zoo_wrote(tmp_path):
    paddle = pytest.importorskip("paddle")
    table, _ = tiny()
    tensors = hf_folder(tmp_path / "hf")
    assert zoo("convert", tmp_path / "hf", tmp_path / "p", "--to", "pdparams") == 0
    assert zoo("convert", tmp_path / "hf", tmp_path / "half", "--to", "pdparams", "--dtype", "bf16") == 0
    found = paddle.load(str(tmp_path / "p" / "model_state.pdparams"))
    half = paddle.load(str(tmp_path / "half" / "model_state.pdparams"))
    for name, rule in table.items():
        turned = rule.hf_transposed or name == "lm_head.weight"
        expected = tensors[rule.hf].T if turned else tensors[rule.hf]
        assert np.array_equal(found[name].numpy(), expected), name
        assert half[name].dtype == paddle.bfloat16
        assert np.array_equal(
            half[name].astype("float32").numpy(),
            paddle.to_tensor(expected.copy()).astype("bfloat16").astype("float32").numpy(),
        )


def test_a_bin_folder_and_one_file(tmp_path, capsys):
    """Paddle's file alone, with the model named."""
    tensors = hf_folder(tmp_path / "hf")
    zoo("convert", tmp_path / "hf", tmp_path / "p", "--to", "pdparams")
    one = tmp_path / "one.pdparams"
    one.write_bytes((tmp_path / "p" / "model_state.pdparams").read_bytes())
    assert zoo("convert", one, tmp_path / "out", "--to", "hf", "--model", tmp_path / "hf") == 0
    equal(held(tmp_path / "out"), tensors)
    assert zoo("convert", one, tmp_path / "no", "--to", "hf") == 2
    assert "--model NAME" in capsys.readouterr().err
    # without a model, Paddle's tensors stay as they are
    assert zoo("convert", one, tmp_path / "same", "--to", "pdparams") == 0
    same = pickle.loads((tmp_path / "same" / "model_state.pdparams").read_bytes())
    equal(same, pickle.loads(one.read_bytes()))


def test_half_precision_keeps_buffers(tmp_path):
    model = "deepseek-ai/DeepSeek-V3"
    hf_folder(tmp_path / "hf", model, num_nextn_predict_layers=0)
    assert zoo("convert", tmp_path / "hf", tmp_path / "half", "--to", "hf", "--dtype", "float16") == 0
    kinds = {name.rpartition(".")[2]: array.dtype.name for name, array in held(tmp_path / "half").items()}
    assert kinds == {"weight": "float16", "e_score_correction_bias": "float32"}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "float16"


def test_old_names(tmp_path, monkeypatch, capsys):
    tensors = hf_folder(tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    assert zoo("convert", "--input_path", "hf", "--offload") == 0
    assert names(tmp_path / "temp") == ["config.json", "model_state.pdparams", "model_state.pdparams.index.json"]
    assert "--offload has no effect" in capsys.readouterr().err
    assert zoo("convert", "--input_path", "temp", "--output_path", "safe", "--as_safetensors", "--split_num", "2") == 0
    equal(held(tmp_path / "safe"), tensors)
    assert len(list((tmp_path / "safe").glob("model-0000?-of-00002.safetensors"))) == 2


def shards(folder, table, config, degree=2):
    """PaddleNLP's shards of a Llama."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    whole = {n: rng.standard_normal(r.shape).astype(np.float32) for n, r in table.items()}
    for rank in range(degree):
        out = {}
        for name, array in whole.items():
            if name == "lm_head.weight":
                array = np.split(array.T, degree, 1)[rank]
            elif name.endswith(
                ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
            ):
                array = np.split(array, degree, 1)[rank]
            elif name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
                array = np.split(array, degree, 0)[rank]
            out[name] = np.ascontiguousarray(array)
        (folder / f"model_state.tp{rank:02d}.pdparams").write_bytes(pickle.dumps(out, 4))
    written = {**config.to_hf(), "tensor_parallel_degree": degree}
    (folder / "config.json").write_text(json.dumps(written))
    return whole


def test_merging_under_the_old_names(tmp_path, capsys):
    table, config = tiny()
    whole = shards(tmp_path / "split", table, config)
    words = ("--model_name_or_path", tmp_path / "split", "--merge_model_path", tmp_path / "out", "--device", "gpu")
    assert zoo("merge", "tp", *words) == 0
    out, err = capsys.readouterr()
    assert "shards of PaddleNLP (tensor 2, pipeline 1)" in out and "--device gpu has no effect" in err
    found = pickle.loads((tmp_path / "out" / "model_state.pdparams").read_bytes())
    equal(found, {n: a.T if n == "lm_head.weight" else a for n, a in whole.items()})
    assert zoo("merge", "tp", tmp_path / "split", tmp_path / "half", "--to", "zoo", "--dtype", "bfloat16") == 0
    with Reader(tmp_path / "half", table) as reader:
        assert {reader.dtype_of(name) for name in table} == {"bfloat16"}
    assert zoo("merge", "tp", tmp_path / "out", tmp_path / "no") == 2
    assert "not shards" in capsys.readouterr().err
    (tmp_path / "split" / "model_state.tp01.pdparams").unlink()
    assert zoo("merge", "tp", tmp_path / "split", tmp_path / "no") == 2
    assert "model_state.tp01.pdparams is missing" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert zoo("merge", "tp", tmp_path / "split") == 2
    assert "DST missing" in capsys.readouterr().err


def test_extra_and_missing_tensors_are_named(tmp_path, capsys):
    tensors = hf_folder(tmp_path / "hf")
    save_file(tensors | {"model.surprise": np.ones(2, np.float32)}, tmp_path / "hf" / "model.safetensors")
    assert zoo("convert", tmp_path / "hf", tmp_path / "no", "--to", "zoo") == 2
    err = capsys.readouterr().err
    assert "model.surprise" in err and "--drop_extra" in err and not (tmp_path / "no").exists()
    assert zoo("convert", tmp_path / "hf", tmp_path / "yes", "--to", "hf", "--drop_extra") == 0
    assert "left out 1 tensors" in capsys.readouterr().out
    equal(held(tmp_path / "yes"), tensors)
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({n: a for n, a in tensors.items() if n != lost}, tmp_path / "hf" / "model.safetensors")
    assert zoo("convert", tmp_path / "hf", tmp_path / "no", "--to", "zoo") == 2
    assert lost in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_what_exists_is_never_touched(tmp_path, capsys):
    hf_folder(tmp_path / "hf", tokenizer=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        assert zoo("convert", tmp_path / "hf", tmp_path / name, "--to", "hf") == 2
        assert "already exists" in capsys.readouterr().err
    assert zoo("convert", tmp_path / "hf", tmp_path / "out", "--to", "hf", "--with_tokenizer") == 2
    assert "no tokenizer in" in capsys.readouterr().err
    assert names(tmp_path) == ["file", "full", "hf"] and names(tmp_path / "full") == ["mine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hf"], "DST and --to missing"),
        (["hf", "out", "--to", "onnx"], "onnx"),
        (["hf", "out", "--to", "hf", "--max_shard_size", "lots"], "no size"),
        (["hf", "out", "--to", "hf", "--max_shard_size", "1GB", "--split_num", "2"], "contradict"),
        (["hf", "out", "--to", "zoo", "--as_safetensors"], "contradict"),
        (["nowhere", "out", "--to", "hf"], "there is no nowhere"),
        (["empty", "out", "--to", "hf", "--model", "meta-llama/Llama-2-7b"], "no weights in"),
        (["hf", "out", "--to", "hf", "--model", "meta-llama/Llama-2-13b"], "shape"),
    ],
)
def test_words_that_make_no_sense(tmp_path, monkeypatch, capsys, words, said):
    hf_folder(tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert zoo("convert", *words) == 2
    out, err = capsys.readouterr()
    assert said in err and "Traceback" not in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf", "zoo", "pdparams"])
def test_a_failure_at_any_step_leaves_nothing(tmp_path, to):
    hf_folder(tmp_path / "hf")
    table, config = tiny()
    steps: list[str] = []

    def run(fail_at, out):
        steps.clear()

        def before(step, path):
            steps.append(step)
            if len(steps) - 1 == fail_at:
                raise OSError(28, "No space left on device")

        with Reader(tmp_path / "hf", table) as reader:
            convert_folder(
                reader, tmp_path / out, to, table=table, config=config, max_shard_size=200_000, disk=Disk(before)
            )

    run(-1, "good")
    count = len(steps)
    # the last step brings the new name to the disk: by then the folder is whole
    for at in range(count - 1):
        with pytest.raises(CheckpointError, match="No space left"):
            run(at, "bad")
        assert names(tmp_path) == ["good", "hf"]


def test_a_converted_zoo_folder_is_weights_for_a_run(tmp_path):
    hf_folder(tmp_path / "hf")
    assert zoo("convert", tmp_path / "hf", tmp_path / "checkpoint-0", "--to", "zoo") == 0
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-0"


def test_memory_is_bounded_by_blocks(tmp_path):
    """A tensor of 200 MB passes through 16 MB blocks: the process grows by far less than the tensor."""
    import resource
    import subprocess
    import sys

    table, config = tiny(vocab_size=400_000, hidden_size=128, num_hidden_layers=1, num_attention_heads=4)
    hf = tmp_path / "hf"
    hf.mkdir()
    tensors = {n: np.zeros(a.shape, np.float32) for n, a in published(table).items()}
    save_file(tensors, hf / "model.safetensors")
    (hf / "config.json").write_text(json.dumps(config.to_hf()))
    del tensors
    script = (
        "import resource, sys; from zoo_core.cli import main; main(['models']);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"assert main(['convert', {str(hf)!r}, {str(tmp_path / 'out')!r}, '--to', 'zoo']) == 0;"
        "print('GREW', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    grew = int(done.stdout.split("GREW")[1]) * 1024
    assert grew < 150e6, f"{grew / 1e6:.0f} MB"
    assert resource.getpagesize() and os.path.getsize(tmp_path / "out" / "model-00001-of-00001.safetensors") > 400e6


def test_fitting_size():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = [int(size) for size in rng.integers(1, 100, rng.integers(1, 30))]
        files = int(rng.integers(1, 10))
        limit = fitting_size(sizes, files)

        def count(limit, sizes=sizes):
            number, filled = 0, limit + 1
            for size in sizes:
                if filled + size > limit:
                    number, filled = number + 1, 0
                filled += size
            return number

        assert count(limit) <= files
        assert limit == max(sizes) or count(limit - 1) > files
