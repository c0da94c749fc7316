"""Folders of `paddle.distributed.save_state_dict` are read as what was saved; damaged ones are refused by name.

The folders in dist_files were written by four processes: see dist_files/make_files.py.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import shutil
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from zoo_core.checkpoint.dtypes import storage
from zoo_core.checkpoint.foreign import foreign_weights, has_foreign
from zoo_core.checkpoint.foreign.dist_ckpt import distributed_weights
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.stored import Files, fill
from zoo_core.cli import main
from zoo_core.errors import CheckpointError
from zoo_core.registry import find

SAVED = Path(__file__).parent / "dist_files"
_spec = importlib.util.spec_from_file_location("make_dist_files", SAVED / "make_files.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def read(folder, tensor, runs=None):
    runs = runs or [(0, math.prod(tensor.shape))]
    out = np.zeros(tensor.shape if len(runs) == 1 else sum(n for _, n in runs), storage(tensor.dtype))
    at = np.cumsum([0, *(n for _, n in runs)])[:-1]
    files = Files(folder)
    fill(files, tensor, np.array([(s, a, n) for (s, n), a in zip(runs, at, strict=True)]), out)
    files.close()
    return out


def equal(folder, tensors, expected):
    """Bit for bit, type for type."""
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        array = expected[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name), name
        assert read(folder, tensor).tobytes() == array.tobytes(), name


def llama():
    return {name: make.values(name, shape) for name, (shape, _) in make.LLAMA.items()}


def odd(*names):
    return {name: make.values(name, *make.ODD[name][::2]) for name in names or make.ODD}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of PaddleNLP's auto-parallel training."""
    shutil.copytree(SAVED / "llama", tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "config.json").write_text(json.dumps(make.CONFIG))
    return tmp_path / "checkpoint-3"


def test_a_nested_state_gives_the_model():
    found = distributed_weights(SAVED / "llama")
    equal(SAVED / "llama", found.tensors, llama())
    assert (found.files, found.entry, found.left) == (4, "model", {"optimizer": 2})
    assert {tensor.file.partition("/")[0] for tensor in found.tensors.values()} == {"dist_ckpt"}
    inside = distributed_weights(SAVED / "llama" / "dist_ckpt")
    equal(SAVED / "llama" / "dist_ckpt", inside.tensors, llama())


def test_another_entry_is_named():
    at = SAVED / "llama" / "dist_ckpt"
    equal(at, distributed_weights(at, "optimizer").tensors, {n: make.values(n, (10, 8)) for n in make.STATES})
    with pytest.raises(CheckpointError, match=r"no entry network\n.*model \(12 tensors\), optimizer \(2 tensors\)"):
        distributed_weights(at, "network")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("odd", odd()),
        ("safe", odd("bfloat16", "uneven")),
        ("ranges", {name: make.values(name, shape) for name, shape in make.RANGES.items()}),
    ],
)
def test_every_way_to_cut(name, expected):
    assert has_foreign(SAVED / name)
    equal(SAVED / name, foreign_weights(SAVED / name).tensors, expected)


def test_slices_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    for name in ("odd", "ranges"):
        for key, tensor in distributed_weights(SAVED / name).tensors.items():
            whole, size = read(SAVED / name, tensor).reshape(-1), math.prod(tensor.shape)
            runs = [(int(s), int(rng.integers(1, size - s + 1))) for s in rng.integers(0, size, 5)]
            found = read(SAVED / name, tensor, runs)
            assert np.array_equal(found, np.concatenate([whole[s : s + n] for s, n in runs])), key


def zoo(*words):
    return main([str(word) for word in words])


def pdparams(path):
    return {name: array for name, array in pickle.loads(path.read_bytes()).items()}


def test_convert_to_one_pdparams_needs_no_model(tmp_path, capsys):
    assert zoo("convert", SAVED / "llama" / "dist_ckpt", tmp_path / "out", "--to", "pdparams") == 0
    out = capsys.readouterr().out
    assert '(4 files, its entry "model"; left out: 2 tensors of "optimizer", since states' in out
    found, expected = pdparams(tmp_path / "out" / "model_state.pdparams"), llama()
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in expected.items()}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model_state.pdparams"]


def test_old_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    at = SAVED / "llama" / "dist_ckpt"
    assert zoo("convert", "--input_path", at, "--prefix", "model", "--offload", "--as_safetensors") == 0
    assert "--offload has no effect" in capsys.readouterr().err
    safe = pytest.importorskip("safetensors.numpy").load_file("temp/model.safetensors")
    assert {name: array.tobytes() for name, array in safe.items()} == {n: a.tobytes() for n, a in llama().items()}
    index = json.loads(Path("temp/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model.safetensors"} and index["weight_map"].keys() == llama().keys()
    words = ["--output_path", "two", "--as_safetensors", "--split_num", "2"]
    assert zoo("convert", "--input_path", at, *words) == 0
    index = json.loads(Path("two/model.safetensors.index.json").read_text())
    files = {path.name for path in Path("two").glob("*.safetensors")}
    assert len(files) == 2 and set(index["weight_map"].values()) == files


@pytest.mark.parametrize("inside", [False, True])
def test_convert_to_hugging_face(folder, tmp_path, inside):
    """Its config.json is beside the parts, or around them."""
    assert zoo("convert", folder / "dist_ckpt" if inside else folder, tmp_path / "hf", "--to", "hf") == 0
    safe = pytest.importorskip("safetensors.numpy").load_file(tmp_path / "hf" / "model.safetensors")
    expected = llama()
    head, query = expected["lm_head.weight"], expected["llama.layers.0.self_attn.q_proj.weight"]
    assert np.array_equal(safe["lm_head.weight"], head.T)
    assert np.array_equal(safe["model.layers.0.self_attn.q_proj.weight"], query.T)
    assert np.array_equal(safe["model.embed_tokens.weight"], expected["llama.embed_tokens.weight"])
    assert len(safe) == len(expected)


def test_a_rank_reads_its_part(folder, tmp_path):
    """Under any tensor-parallel degree the same as from the Hugging Face folder made of it."""
    assert zoo("convert", folder, tmp_path / "hf", "--to", "hf") == 0
    found = find(str(folder))
    table = found.architecture.table(found.config)
    with Reader(folder, table) as ours, Reader(tmp_path / "hf", table) as published:
        assert ours.check() == ()
        for name in table:
            for degree, rank in ((1, 0), (2, 0), (2, 1)):
                part = ours.read_local(name, degree, rank)
                assert np.array_equal(part, published.read_local(name, degree, rank)), name


def test_a_run_that_ended_and_its_files_are_found(tmp_path):
    shutil.copytree(SAVED / "odd", tmp_path / "model")
    equal(tmp_path, foreign_weights(tmp_path).tensors, odd())
    # weights in the folder itself come first
    shutil.copy(SAVED.parent / "torch_files" / "plain.bin", tmp_path / "pytorch_model.bin")
    assert foreign_weights(tmp_path).kind == "torch"


def test_a_file_means_its_folder_or_is_refused(tmp_path):
    at = tmp_path / "odd"
    shutil.copytree(SAVED / "odd", at)
    (at / "7.metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"7\.metadata"):
        foreign_weights(at)
    equal(at, foreign_weights(at, "0.metadata").tensors, odd())
    with pytest.raises(CheckpointError, match="holds the parts of one rank"):
        foreign_weights(at, "1_0.distcp")


def test_what_is_missing_is_named(tmp_path):
    at = tmp_path / "odd"
    shutil.copytree(SAVED / "odd", at)
    (at / "2_0.distcp").rename(tmp_path / "2_0.distcp")
    with pytest.raises(CheckpointError, match=r"2_0\.distcp is missing\n.*0\.metadata names it"):
        foreign_weights(at)
    (at / "0.metadata").unlink()
    with pytest.raises(CheckpointError, match=r"no 0\.metadata"):
        foreign_weights(at)
    shutil.copy(at / "0_0.distcp", at / "2_0.distcp")
    shutil.copy(SAVED / "odd" / "0.metadata", at)
    with pytest.raises(CheckpointError, match=r"is not in .*2_0\.distcp\n|2_0\.distcp has shape"):
        foreign_weights(at)


def test_a_folder_of_torch_is_named(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"PK")
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match="distributed checkpoint of PyTorch"):
        foreign_weights(tmp_path)


@pytest.mark.parametrize("file", ["0.metadata", "0_0.distcp", "3_0.distcp"])
def test_cut_files_are_refused(tmp_path, file):
    at = tmp_path / "odd"
    shutil.copytree(SAVED / "odd", at)
    whole = (at / file).read_bytes()
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        (at / file).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            foreign_weights(at)


def test_damage_never_gives_another_error(tmp_path):
    """Bytes of a description or a file changed at random: what is read is whole, or a CheckpointError says why not."""
    rng = np.random.default_rng(0)
    for name, file in (("ranges", "0.metadata"), ("odd", "0.metadata"), ("ranges", "1_0.distcp")):
        at = tmp_path / f"{name}-{file}"
        shutil.copytree(SAVED / name, at)
        whole, refused = (at / file).read_bytes(), 0
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] = rng.integers(256)
            (at / file).write_bytes(damaged)
            try:
                for tensor in foreign_weights(at).tensors.values():
                    read(at, tensor)
            except CheckpointError:
                refused += 1
        assert refused > 30


def old_paddle(monkeypatch, module="paddle.distributed.checkpoint.metadata"):
    """The classes that Paddle's descriptions are made of, in a module of that name."""
    made = types.ModuleType(module)
    for kind in ("Metadata", "LocalTensorMetadata", "LocalTensorIndex"):
        setattr(made, kind, type(kind, (), {"__module__": module, "__qualname__": kind}))
    for depth in range(1, module.count(".") + 1):
        name = module.rsplit(".", depth)[0]
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module, made)
    return made


def described(made, folder, rows, ways=None, with_shapes=False, **more):
    """Write 0.metadata: (key, offset, shape, type, file) of every part, and further attributes of each row."""

    def record(kind, **fields):
        found = getattr(made, kind)()
        found.__dict__.update(fields)
        return found

    state, places = {}, {}
    for key, at, shape, dtype, file in rows:
        row = record("LocalTensorMetadata", global_offset=at, local_shape=shape, dtype=dtype, **more)
        state.setdefault(key, []).append(row)
        shapes = {"local_shape": shape} if with_shapes else {}
        places[record("LocalTensorIndex", tensor_key=key, global_offset=at, **shapes, **more)] = file
    held = record("Metadata", state_dict_metadata=state, storage_metadata=places, flat_mapping=ways)
    (folder / "0.metadata").write_bytes(pickle.dumps(held, 4))


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """A matrix in two halves beside a state of an optimizer, as Paddle 2.6 describes it."""
    made = old_paddle(monkeypatch)
    w = np.arange(24, dtype=np.float32).reshape(4, 6)
    for rank in range(2):
        held = {"model.w": w[:, 3 * rank : 3 * rank + 3].copy(), "model.b": w[0].astype(ml_dtypes.bfloat16)}
        held |= {"optimizer.m": w[0]} if rank == 0 else {}
        (tmp_path / f"{rank}_0.distcp").write_bytes(pickle.dumps(held, 4))
    rows = [(f"model.{n}", at, shape, dtype, f"{rank}_0.distcp") for n, at, shape, dtype, rank in (
        ("w", (0, 0), (4, 3), "float32", 0), ("w", (0, 3), (4, 3), "float32", 1), ("b", (0,), (6,), "bfloat16", 1),
    )] + [("optimizer.m", (0,), (6,), "float32", "0_0.distcp")]  # fmt: skip

    def write(change=None, add=(), **more):
        described(
            made, tmp_path, [(change or {}).get(number, row) for number, row in enumerate(rows)] + list(add), **more
        )
        return tmp_path

    return write, w, rows


def test_old_descriptions_are_read(halves):
    write, w, rows = halves
    found = distributed_weights(write())
    equal(write(), found.tensors, {"w": w, "b": w[0].astype(ml_dtypes.bfloat16)})
    assert found.left == {"optimizer": 1}
    equal(write(), distributed_weights(write(), "optimizer").tensors, {"m": w[0]})
    # the newer ones say which entry a key is from: a dot may be part of a name
    ways = {"model.w": ("network", "w"), "model.b": ("network", "x.b"), "optimizer.m": ("optimizer", "m")}
    assert distributed_weights(write(ways=ways)).tensors.keys() == {"w", "x.b"}
    flat = {key: (key,) for key in ways}
    assert distributed_weights(write(ways=flat, change={3: rows[0]})).tensors.keys() == {"model.w", "model.b"}
    ways["optimizer.m"] = ("teacher", "m")
    with pytest.raises(CheckpointError, match=r"which entry .* is the model\?\n.*network \(2.*teacher \(1"):
        distributed_weights(write(ways=ways))


def test_a_whole_beside_its_pieces_counts_once(halves):
    write, w, _ = halves
    at = write(add=[("model.w", (0, 0), (4, 6), "float32", "2_0.distcp")], with_shapes=True)
    (at / "2_0.distcp").write_bytes(pickle.dumps({"model.w": w}, 4))
    equal(at, distributed_weights(at).tensors, {"w": w, "b": w[0].astype(ml_dtypes.bfloat16)})


@pytest.mark.parametrize(
    ("number", "row", "message"),
    [
        (1, ("model.w", (0, 2), (4, 3), "float32", "1_0.distcp"), r"lie across each other"),
        (1, ("model.w", (0, 4), (4, 3), "float32", "1_0.distcp"), r"parts of tensor model\.w \[4, 7\] are missing"),
        (1, ("model.w", (1, 3), (4, 3), "float32", "1_0.distcp"), r"parts of tensor model\.w \[5, 6\] are missing"),
        (1, ("model.w", (0, 3), (4, 2), "float32", "1_0.distcp"), r"1_0\.distcp has shape \[4, 3\]"),
        (1, ("model.w", (0, 3), (4, 3), "float32", "../1_0.distcp"), r"is damaged\n.*no file of this folder"),
        (1, ("model.w", (0, 3), (4, 3), "float32", "/etc/passwd"), r"is damaged\n.*no file of this folder"),
        (1, ("model.w", (0, -3), (4, 3), "float32", "1_0.distcp"), r"is damaged\n.*is no shape"),
        (1, ("model.w", (0,), (4,), "float32", "1_0.distcp"), r"is damaged"),
        (1, ("model.w", (0, "3"), (4, 3), "float32", "1_0.distcp"), r"is damaged"),
        (2, ("model.b", (0,), (6,), "float32", "1_0.distcp"), r"shape \[6\] of bfloat16\n.*\[6\] of float32"),
        (2, ("model.c", (0,), (6,), "bfloat16", "1_0.distcp"), r"model\.c is not in .*1_0\.distcp"),
        (2, ("model.b", (0,), (1 << 60,), "bfloat16", "1_0.distcp"), r"has shape \[6\]"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(halves, number, row, message):
    write, _, _ = halves
    with pytest.raises(CheckpointError, match=message):
        distributed_weights(write(change={number: row}))


def test_ranges_have_to_meet(tmp_path, monkeypatch):
    made = old_paddle(monkeypatch, "paddle.distributed.flex_checkpoint.dcp.metadata")
    (tmp_path / "0_0.distcp").write_bytes(pickle.dumps({"w": np.ones(8, np.float32)}, 4))
    for span, message in (
        ((4, 12), "elements up to 0, and then from 4"), ((0, 8), "elements up to 8, and then from 12"),
        ((8, 16), "said to be"), ((8, 0), "said to be"), (0, "0 is no shape"), ((0.0, 8), "is no shape"),
    ):  # fmt: skip
        row = ("w", (0, 0), (3, 4), "float32", "0_0.distcp")
        described(made, tmp_path, [row], is_flattened=True, flattened_range=span)
        with pytest.raises(CheckpointError, match=message):
            distributed_weights(tmp_path)


def test_a_description_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-run",))

    (tmp_path / "0.metadata").write_bytes(pickle.dumps({"a": Evil()}, 4))
    with pytest.raises(CheckpointError, match="not a tensor"):
        distributed_weights(tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_what_this_paddle_saves(tmp_path):
    paddle = pytest.importorskip("paddle")
    import paddle.distributed as dist

    held = {"a": paddle.arange(6, dtype="float32").reshape([2, 3]), "b": paddle.ones([300], dtype="bfloat16")}
    held["c"] = held["a"].cast("float8_e4m3fn")
    dist.save_state_dict({"model": held, "optimizer": {"a": held["a"] + 1}}, str(tmp_path))
    found = distributed_weights(tmp_path)
    expected = {"a": held["a"].numpy(), "b": held["b"].cast("float32").numpy().astype(ml_dtypes.bfloat16)}
    expected["c"] = expected["a"].astype(ml_dtypes.float8_e4m3fn)
    equal(tmp_path, found.tensors, expected)
    assert found.left == {"optimizer": 1}
