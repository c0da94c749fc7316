"""Damaged files are found when a run goes on, a full disk harms nothing, and `zoo checkpoint` says what is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoo_core.checkpoint import Ranks, checkpoints, contents, last_good, latest_checkpoint, save_checkpoint, verify
from zoo_core.checkpoint.folders import newest_folder, pointed
from zoo_core.checkpoint.manifest import read_manifest, share_out
from zoo_core.cli import main
from zoo_core.errors import CheckpointError


def save(toys, root, step, **more):
    config = toys.config()
    table = toys.table(config)
    return save_checkpoint(
        root,
        step,
        toys.World().local(table, toys.values(table, step, ("moment1", "master")), 0),
        entries=contents(table, states=("moment1", "master")),
        table=table,
        config=config,
        state={"seed": step, "metrics": {"eval_loss": 2.5}, "model_name": "toy", "consumed_samples": 8 * step},
        layout={"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2, "sequence_parallel": 1},
        extras={"rng/rank-0.bin": bytes(range(64))},
        files={"tokenizer.json": b"{}"},
        **more,
    )


@pytest.fixture
def out(toys, tmp_path):
    """The folder of a run with checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save(toys, tmp_path / "out", step)
    return tmp_path / "out"


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def kinds(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = " ".join(path.name for path in found)
    for kind in ("model-", "optimizer-", "master_weights-", "index.json", "trainer_state.json", "config.json",
                 "rank-0.bin", "tokenizer.json", "manifest.json"):  # fmt: skip
        assert kind in names
    return found


def test_a_flip_anywhere_in_a_manifest_is_found(out):
    path = out / "checkpoint-2" / "manifest.json"
    kept = path.read_bytes()
    for at in range(0, len(kept), 7):
        flip(path, at)
        with pytest.raises(CheckpointError, match="manifest.json"):
            read_manifest(path.parent)
        path.write_bytes(kept)
    verify(path.parent)


def test_each_kind_of_file_is_named_by_every_rank_that_loads(out, toys):
    folder = out / "checkpoint-2"
    for path in kinds(folder):
        for harm in (flip, lambda path: os.truncate(path, path.stat().st_size - 2), os.unlink):
            kept = path.read_bytes()
            harm(path)
            for error in toys.run(3, lambda ranks: verify(folder, ranks)):
                assert isinstance(error, CheckpointError) and error.what == f"{folder} is damaged"
                assert str(path) in error.why and f"use {out / 'checkpoint-1'}, saved before" in error.todo
            assert last_good(out) == out / "checkpoint-1"
            path.write_bytes(kept)
    sizes = [size for size, _ in read_manifest(folder).files.values()]
    assert sum(toys.run(3, lambda ranks: verify(folder, ranks))) == sum(sizes) == verify(folder, Ranks())
    assert verify(folder, states=False) < sum(sizes) / 2
    assert last_good(out) == folder


def test_files_are_shared_out_by_bytes():
    sizes = {"a": 100, "b": 60, "c": 50, "d": 1, "e": 0}
    shares = share_out(sizes, 2)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert [sum(sizes[name] for name in share) for share in shares] == [101, 110]
    assert share_out({"a": 1}, 3) == [["a"], [], []]


def test_the_newest_is_named_even_if_it_is_damaged(out):
    os.truncate(out / "checkpoint-2" / "config.json", 1)
    assert newest_folder(out) == out / "checkpoint-2" and latest_checkpoint(out) == out / "checkpoint-1"
    (out / "latest").unlink()
    assert newest_folder(out) == out / "checkpoint-2"
    (out / "checkpoint-2").rename(out / "checkpoint-2.old")
    assert newest_folder(out) == out / "checkpoint-2.old"
    (out / "latest").write_bytes(b"\xff\xfe")
    assert pointed(out / "latest") is None
    shutil.rmtree(out / "checkpoint-2.old")
    assert newest_folder(out) == out / "checkpoint-1" and newest_folder(out / "none") is None


def test_the_best_is_named_before_another_is_deleted(toys, tmp_path):
    root = tmp_path / "out"
    save(toys, root, 1, save_total_limit=1, best="checkpoint-1")
    assert pointed(root / "best") == root / "checkpoint-1"
    save(toys, root, 2, save_total_limit=1, best="checkpoint-1")
    assert [saved.step for saved in checkpoints(root)] == [2, 1]
    save(toys, root, 3, save_total_limit=1, best="checkpoint-3")
    assert [saved.step for saved in checkpoints(root)] == [3] and pointed(root / "best") == root / "checkpoint-3"


def test_a_damaged_one_does_not_push_out_a_good_one(toys, out):
    """Of three with a limit of two, the good one stays that is older than the damaged one."""
    os.truncate(out / "checkpoint-2" / "config.json", 1)
    save(toys, out, 3, save_total_limit=2)
    assert [saved.step for saved in checkpoints(out)] == [3, 1]


def test_what_a_killed_save_left_is_removed_by_the_next(toys, out):
    for name in ("checkpoint-3.1a2b3c4d.tmp", "checkpoint-2.old.gone.tmp"):
        (out / name).mkdir()
        (out / name / "model-00001-of-00001.safetensors").write_bytes(b"half")
    save(toys, out, 3)
    assert {path.name for path in out.iterdir()} == {"checkpoint-1", "checkpoint-2", "checkpoint-3", "latest"}


FULL = """
import shutil, sys
sys.path.insert(0, {folder!r})
import conftest, test_safety_files as case
from pathlib import Path
from zoo_core.checkpoint import checkpoints, verify
from zoo_core.errors import CheckpointError
root = Path({root!r}) / "out"
case.save(conftest.Toys, root, 1)
verify(root / "checkpoint-1")
filler = (root.parent / "filler").open("wb", buffering=0)
failed = set()
usage = shutil.disk_usage
for room in range(0, 600_000, 8_192):
    # room enough is claimed, so that writing itself meets the end of the disk
    shutil.disk_usage = usage if room == 8_192 else lambda path: type("Usage", (), {{"free": 1 << 40}})
    try:
        filler.seek(0, 2)
        while True:
            filler.write(b"x" * 4096)
    except OSError:
        pass
    filler.truncate(max(0, filler.seek(0, 2) - room))
    try:
        case.save(conftest.Toys, root, 2)
        break
    except CheckpointError as error:
        failed.add(str(error))
    assert [saved.step for saved in checkpoints(root)] == [1], list(root.iterdir())
    assert {{path.name for path in root.iterdir()}} <= {{"checkpoint-1", "latest", "latest.tmp"}}
    verify(root / "checkpoint-1")
else:
    raise SystemExit("never enough room")
verify(root / "checkpoint-2")
print(*failed)
"""


def test_a_full_tmpfs_leaves_the_previous_checkpoint(tmp_path):
    """On a file system of 3 MB, as little room as there can be, then more and more until the second one fits."""
    script = FULL.format(folder=str(Path(__file__).parent), root=str(tmp_path))
    # a mount of its own, which ends with the process
    mount = f'mount -t tmpfs -o size=3m zoo-test "{tmp_path}" || exit 77; exec "$0" -c "$1"'
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, script]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    if done.returncode == 77 or "unshare" in done.stderr.split(":")[0]:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "could not save" in done.stdout and "checkpoint-2" in done.stdout
    assert "MB free" in done.stdout and "No space left on device" in done.stdout


@pytest.fixture
def zoo(capsys):
    def call(*words):
        status = main(["checkpoint", *map(str, words)])
        return (status, *capsys.readouterr())

    return call


def test_ls(zoo, out, toys):
    save(toys, out, 3, best="checkpoint-1")
    (out / "checkpoint-4.0a.tmp").mkdir()
    os.truncate(out / "checkpoint-2" / "config.json", 1)
    status, said, err = zoo("ls", out)
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in said.splitlines() if line.startswith("checkpoint-")}
    assert (
        "tp2 x pp2 x sp" in rows["checkpoint-1"] and "whole" in rows["checkpoint-1"] and "best" in rows["checkpoint-1"]
    )
    assert "damaged" in rows["checkpoint-2"] or "config.json has 1 bytes" in said
    assert "latest" in rows["checkpoint-3"] and "unfinished" in rows["checkpoint-4.0a.tmp"]
    status, said, _ = zoo("ls", out, "--json")
    listed = json.loads(said)
    assert [(one["step"], one["state"]) for one in listed] == [
        (1, "whole"), (2, "damaged"), (3, "whole"), (4, "unfinished")
    ]  # fmt: skip
    assert listed[0]["best"] and listed[2]["latest"] and listed[0]["layout"]["tensor_parallel_degree"] == 2
    assert (
        listed[0]["bytes"]
        == sum(p.stat().st_size for p in (out / "checkpoint-1").rglob("*") if p.is_file())
        - (out / "checkpoint-1" / "manifest.json").stat().st_size
    )
    status, _, err = zoo("ls", out / "nowhere")
    assert status == 2 and "no checkpoints in" in err and "no such folder" in err
    assert zoo("ls", out / "checkpoint-1")[0] == 2


def test_verify(zoo, out):
    status, said, err = zoo("verify", out)
    assert (status, err) == (0, "") and said.count("ok  ") == 2
    for path in kinds(out / "checkpoint-2"):
        kept = path.read_bytes()
        flip(path)
        status, said, err = zoo("verify", out / "checkpoint-2")
        assert status == 2 and f"DAMAGED  {out / 'checkpoint-2'}" in said
        assert str(path) in err and f"use {out / 'checkpoint-1'}" in err and err.count("error:") == 1
        path.write_bytes(kept)
    flip(out / "checkpoint-1" / "config.json")
    status, said, err = zoo("verify", out, "--json")
    told = json.loads(said)
    assert (
        status == 2 and err == "" and [one["ok"] for one in sorted(told, key=lambda one: one["path"])] == [False, True]
    )
    assert zoo("verify", out / "nowhere")[0] == zoo("verify", out / "checkpoint-9")[0] == 2
    (out / "checkpoint-1" / "manifest.json").unlink()
    status, _, err = zoo("verify", out / "checkpoint-1")
    assert status == 2 and "never finished" in err


def test_show(zoo, out):
    status, said, err = zoo("show", out)
    assert (status, err) == (0, "") and said.startswith(f"{out / 'checkpoint-2'}: step 2, ")
    assert "written by  tp2 x pp2 x sp" in said and "16 samples consumed" in said and "eval_loss 2.5" in said
    line = next(line for line in said.splitlines() if line.startswith("toy.layers.0.mlp.w1.weight"))
    assert "24 x 36" in line and "weight float32, moment1 float32, master float32" in line.replace(
        "master float32, moment1 float32", "moment1 float32, master float32"
    )
    assert "toy.out.scale" in said and "scalar" in said and "vocab_size 37" in said
    status, said, _ = zoo("show", out / "checkpoint-1", "--json")
    found = json.loads(said)
    assert found["step"] == 1 and found["config"]["vocab_size"] == 37 and found["trainer_state"]["seed"] == 1
    roles = {(t["name"], t["role"], tuple(t["shape"]), t["dtype"]) for t in found["tensors"]}
    for role in ("weight", "moment1", "master"):
        assert ("toy.embed.weight", role, (37, 24), "float32") in roles
    assert zoo("show", out / "nowhere")[0] == 2


def test_values_survive(toys, out):
    """The toy run's own numbers, so that the tests above look at what they mean to."""
    table = toys.table(toys.config())
    from zoo_core.checkpoint import Reader

    with Reader(out / "checkpoint-2", table) as reader:
        for (role, name), value in toys.values(table, 2, ("moment1", "master")).items():
            if value.size:
                assert np.array_equal(reader.read_local(name, role=role), value)
