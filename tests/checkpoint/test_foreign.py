"""Files of PyTorch and Paddle are read as what they hold, slice by slice, and nothing in them is run."""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from zoo_core.checkpoint.dtypes import storage
from zoo_core.checkpoint.foreign.paddle_file import paddle_tensors
from zoo_core.checkpoint.foreign.torch_file import torch_tensors
from zoo_core.checkpoint.stored import Box, Cast, Files, Located, Pasted, Turned, fill
from zoo_core.errors import CheckpointError

TORCH = Path(__file__).parent / "torch_files"
EVIL = "/tmp/zoo-test-was-run"


def whole(folder, tensor):
    out = np.zeros(tensor.shape, storage(tensor.dtype))
    fill(Files(folder), tensor, np.array([[0, 0, math.prod(tensor.shape)]]), out)
    return out


def some(folder, tensor, runs):
    out = np.zeros(sum(length for _, length in runs), storage(tensor.dtype))
    at = np.cumsum([0, *(length for _, length in runs)])
    fill(Files(folder), tensor, np.array([(s, a, n) for (s, n), a in zip(runs, at, strict=False)]), out)
    return out


def random_runs(rng, size, count=5):
    starts = rng.integers(0, size, count)
    return [(int(s), int(rng.integers(1, size - s + 1))) for s in starts]


@pytest.mark.parametrize("file", ["archive.bin", "plain.bin"])
def test_torch_files_hold_what_torch_saved(file):
    tensors = torch_tensors(TORCH, file)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    three = np.array([1.0, -2.0, 0.5])
    expected = {
        "whole": base,
        "turned": base.T,
        "rows": base[1:3],
        "strided": base[:, ::2],
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones((2, 2), np.float32),
        "bfloat16": three.astype(ml_dtypes.bfloat16).view(np.uint16),
        "float16": three.astype(np.float16),
        "float8": three.astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
        "int64": np.arange(3),
        "bool": np.array([True, False]),
        "long": np.arange(1000, dtype=np.float32),
    }
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        found = whole(TORCH, tensors[name])
        assert found.dtype == array.dtype and np.array_equal(found, array), name
    rng = np.random.default_rng(0)
    for name in ("turned", "strided", "long"):
        runs = random_runs(rng, expected[name].size)
        values = np.concatenate([expected[name].reshape(-1)[s : s + n] for s, n in runs])
        assert np.array_equal(some(TORCH, tensors[name], runs), values)


def test_a_nested_state_dict_is_found_and_a_module_is_refused():
    assert list(torch_tensors(TORCH, "nested.pt")) == ["weight"]
    with pytest.raises(CheckpointError, match=r"module.pt holds torch.nn.modules.linear.Linear"):
        torch_tensors(TORCH, "module.pt")


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {EVIL}",)


class Evaluated:
    def __reduce__(self):
        return eval, (f"open('{EVIL}', 'w')", {"data": 1})


class Stateful:
    pass


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Evil(), "posix.system"),
        (Evaluated(), "its program is wrong"),
        (Stateful(), "test_foreign.Stateful"),
        (np.array(["a"], object), "an array of objects"),
        ({1, 2}, "set"),
        (os.path.join, "posixpath.join"),
    ],
    ids=["call", "eval", "object", "objects", "set", "function"],
)
def test_anything_but_weights_is_refused_by_name_and_not_run(tmp_path, protocol, value, named):
    Path(EVIL).unlink(missing_ok=True)
    content = pickle.dumps({"weight": np.ones(3), "more": value}, protocol)
    (tmp_path / "model.pdparams").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        paddle_tensors(tmp_path, "model.pdparams")
    assert named in str(caught.value) and str(tmp_path / "model.pdparams") in str(caught.value)
    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.writestr("model/data.pkl", content)
    with pytest.raises(CheckpointError) as caught:
        torch_tensors(tmp_path, "model.bin")
    assert named in str(caught.value)
    assert not Path(EVIL).exists()


def test_damaged_files_are_named(tmp_path):
    rng = np.random.default_rng(0)
    content = pickle.dumps({f"w{i}": rng.random((20, 20)) for i in range(3)}, 4)
    for cut in (*range(1, len(content), 97), len(content) - 1):
        (tmp_path / "cut.pdparams").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.pdparams"):
            paddle_tensors(tmp_path, "cut.pdparams")
    flipped = 0
    for at in range(0, 200, 3):
        (tmp_path / "flip.pdparams").write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        try:
            paddle_tensors(tmp_path, "flip.pdparams")
        except CheckpointError as error:
            assert "flip.pdparams" in str(error)
            flipped += 1
    assert flipped > 20
    for name in ("archive.bin", "plain.bin"):
        held = (TORCH / name).read_bytes()
        (tmp_path / name).write_bytes(held[:-600])
        with pytest.raises(CheckpointError, match=name):
            torch_tensors(tmp_path, name)
    with zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(CheckpointError, match="compressed"):
        torch_tensors(tmp_path, "packed.bin")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_files_hold_what_paddle_saved(tmp_path, protocol):
    paddle = pytest.importorskip("paddle")
    rng = np.random.default_rng(0)
    long = rng.standard_normal((50, 40)).astype(np.float32)
    layer = paddle.nn.Linear(3, 5)
    held = {
        "long": paddle.to_tensor(long),
        "half": paddle.to_tensor(long).astype("bfloat16"),
        "small": paddle.to_tensor([1.0, 2.0]),
        "scalar": paddle.to_tensor(3.0),
        "numpy": long.astype(np.float64),
        "fortran": np.asfortranarray(long[:4, :4]),
        "layer": dict(layer.state_dict()),
        "epoch": 3,
    }
    paddle.save(held, str(tmp_path / "m.pdparams"), protocol=protocol)
    paddle.save(layer.state_dict(), str(tmp_path / "layer.pdparams"), protocol=protocol)
    tensors = paddle_tensors(tmp_path, "m.pdparams")
    expected = {
        "long": long,
        "half": long.astype(ml_dtypes.bfloat16).view(np.uint16),
        "small": np.array([1, 2], np.float32),
        "scalar": np.float32(3),
        "numpy": long.astype(np.float64),
        "fortran": long[:4, :4],
        "layer.weight": layer.weight.numpy(),
        "layer.bias": layer.bias.numpy(),
    }
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(whole(tmp_path, tensors[name]), array), name
    assert tensors["half"].dtype == "bfloat16"
    runs = random_runs(rng, long.size)
    values = np.concatenate([long.reshape(-1)[s : s + n] for s, n in runs])
    assert np.array_equal(some(tmp_path, tensors["long"], runs), values)
    assert set(paddle_tensors(tmp_path, "layer.pdparams")) == {"weight", "bias"}


def test_arrays_in_pieces_and_ordered_dicts(tmp_path):
    array = np.random.default_rng(0).standard_normal((30, 50)).astype(np.float32)
    flat = array.reshape(-1)
    held = OrderedDict(
        {f"big@@.{i}": flat[i * 700 : (i + 1) * 700] for i in range(3)}
        | {"UnpackBigParamInfor@@": {"big": {"OriginShape": (30, 50), "slices": [f"big@@.{i}" for i in range(3)]}}}
    )
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(held, 2))
    tensors = paddle_tensors(tmp_path, "m.pdparams")
    assert list(tensors) == ["big"] and np.array_equal(whole(tmp_path, tensors["big"]), array)
    assert np.array_equal(some(tmp_path, tensors["big"], [(650, 800)]), flat[650:1450])
    del held["big@@.1"]
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(held, 2))
    with pytest.raises(CheckpointError, match="big@@.1"):
        paddle_tensors(tmp_path, "m.pdparams")


def test_views_of_views_read_what_numpy_reads(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((70, 90)).astype(np.float32)
    (tmp_path / "f").write_bytes(b"head" + array.tobytes())
    located = Located("a", "f", 4, array.shape, "float32")
    boxes = (
        Box((0, 0), Turned(located), (5, 10), (40, 30)),
        Box((0, 30), located, (3, 2), (40, 50)),
    )
    pasted = Pasted("p", (40, 80), "float32", boxes)
    expected = np.concatenate([array.T[5:45, 10:40], array[3:43, 2:52]], axis=1)
    cast = Cast(Turned(pasted), "float64")
    for tensor, value in ((pasted, expected), (Turned(pasted), expected.T), (cast, expected.T.astype(np.float64))):
        assert np.array_equal(whole(tmp_path, tensor), value)
        for _ in range(5):
            runs = random_runs(rng, value.size)
            wanted = np.concatenate([value.reshape(-1)[s : s + n] for s, n in runs])
            assert np.array_equal(some(tmp_path, tensor, runs), wanted)
            # each element by itself: read through a window
            order = rng.permutation(value.size)[:500]
            assert np.array_equal(some(tmp_path, tensor, [(int(i), 1) for i in order]), value.reshape(-1)[order])


def test_a_slice_of_a_turned_matrix_reads_its_columns_only(tmp_path, monkeypatch):
    from zoo_core.checkpoint import stored as module

    array = np.arange(200 * 6000, dtype=np.float32).reshape(200, 6000)
    (tmp_path / "f").write_bytes(array.tobytes())
    read, real = [], module.read_exactly
    monkeypatch.setattr(module, "read_exactly", lambda h, p, view, at: (read.append(len(view)), real(h, p, view, at)))
    turned = Turned(Located("a", "f", 0, array.shape, "float32"))
    found = some(tmp_path, turned, [(1500 * 200, 1500 * 200)])
    assert np.array_equal(found, array.T[1500:3000].reshape(-1)) and sum(read) == array.nbytes // 4
