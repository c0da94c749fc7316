"""A checkpoint is whole or absent: kills, full disks, failing ranks, damaged files, too many checkpoints."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zoo_core.checkpoint import (
    Disk,
    Reader,
    check_output,
    checkpoints,
    contents,
    latest_checkpoint,
    read_state,
    save_checkpoint,
    verify,
)
from zoo_core.errors import CheckpointError


class Saving:
    """Saves the toy model's step N with values drawn from seed N, under a layout of a few ranks."""

    def __init__(self, toys, root, world=None):
        self.toys, self.root, self.world = toys, Path(root), world or toys.World()
        self.config = toys.config()
        self.table = toys.table(self.config)

    def values(self, step):
        return self.toys.values(self.table, step, ("moment1",))

    def work(self, step, ranks=None, disk=None, **more):
        return save_checkpoint(
            self.root,
            step,
            self.world.local(self.table, self.values(step), ranks.rank if ranks else 0),
            entries=contents(self.table, states=("moment1",)),
            table=self.table,
            config=self.config,
            state={"seed": step},
            layout={},
            ranks=ranks,
            disk=disk,
            extras={f"rng/rank-{ranks.rank if ranks else 0}.bin": b"state"},
            files={"tokenizer.json": b"{}"},
            max_shard_size=15_000,
            **more,
        )

    def __call__(self, step, disk=None, **more):
        if self.world.size == 1:
            return self.work(step, disk=disk, **more)
        return self.toys.run(self.world.size, lambda ranks: self.work(step, ranks, disk, **more))

    def assert_holds(self, folder, step):
        verify(folder)
        assert read_state(folder)["seed"] == step
        with Reader(folder, self.table) as reader:
            for (role, name), value in self.values(step).items():
                if value.size:
                    assert np.array_equal(reader.read_local(name, role=role), value)


@pytest.fixture
def saving(toys, tmp_path):
    return Saving(toys, tmp_path / "out")


def failing_at(step, act):
    """A disk that does `act(path)` before its `step`-th change, and counts the changes."""
    done = [0]

    def before(kind, path):
        done[0] += 1
        if done[0] == step:
            act(path)

    return Disk(before), done


def raise_full(path):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_at_any_step_leaves_the_previous_checkpoint(saving):
    disk, steps = failing_at(0, raise_full)
    saving(1, disk)
    assert steps[0] > 100
    for at in [*random.Random(0).sample(range(1, steps[0]), 30), steps[0]]:
        disk, _ = failing_at(at, raise_full)
        try:
            saving(2, disk)
        except CheckpointError as error:
            assert "No space left on device" in error.why and "checkpoint-2" in error.what
        names = {path.name for path in saving.root.iterdir()}
        assert names <= {"checkpoint-1", "checkpoint-2", "latest", "latest.tmp"}
        saving.assert_holds(saving.root / "checkpoint-1", 1)
        if "checkpoint-2" in names:
            saving.assert_holds(saving.root / "checkpoint-2", 2)
        found = latest_checkpoint(saving.root)
        saving.assert_holds(found, int(found.name.removeprefix("checkpoint-")))


@pytest.mark.parametrize("broken", range(4))
def test_one_rank_with_a_full_disk_is_an_error_on_all(broken, toys, tmp_path):
    saving = Saving(toys, tmp_path, toys.World(tp=2, pp=2))
    saving(1)

    def work(ranks):
        disk = Disk(lambda kind, path: raise_full(path) if kind == "write_at" and ranks.rank == broken else None)
        return saving.work(2, ranks, disk)

    found = toys.run(4, work)
    assert all(isinstance(error, CheckpointError) for error in found)
    assert all(f"rank {broken}: No space left on device" in error.why for error in found)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "latest"}


def test_too_little_space_is_said_before_anything_is_written(saving, monkeypatch):
    saving(1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match=r"it takes 1\.\d MB, .* has 0\.0 MB free"):
        saving(2)
    assert latest_checkpoint(saving.root).name == "checkpoint-1"


def test_a_tensor_that_no_rank_writes_is_an_error(saving):
    tensors = [t for t in saving.world.local(saving.table, saving.values(1), 0) if "w2" not in t.rule.name]
    with pytest.raises(CheckpointError, match=r"toy.layers.0.mlp.w2.weight \(model\) \[36, 24\] the ranks hold 0"):
        save_checkpoint(
            saving.root,
            1,
            tensors,
            entries=contents(saving.table, states=("moment1",)),
            table=saving.table,
            config=saving.config,
            state={},
            layout={},
        )
    assert list(saving.root.iterdir()) == []


def test_a_defect_in_one_rank_does_not_leave_the_others_waiting(toys, tmp_path):
    saving = Saving(toys, tmp_path, toys.World(tp=2))

    def tensors(rank):
        yield from list(saving.world.local(saving.table, saving.values(1), rank))[:3]
        if rank == 1:
            raise IndexError("a defect")

    def work(ranks):
        return save_checkpoint(
            tmp_path,
            1,
            tensors(ranks.rank),
            entries=contents(saving.table, states=("moment1",)),
            table=saving.table,
            config=saving.config,
            state={},
            layout={},
            ranks=ranks,
        )

    first, second = toys.run(2, work)
    assert isinstance(first, CheckpointError) and "rank 1: IndexError: a defect" in first.why
    assert isinstance(second, IndexError)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import conftest, test_safety
saving = test_safety.Saving(conftest.Toys, {root!r}, conftest.World(tp=2, pp=2))
for line in sys.stdin:
    at, step = map(int, line.split())
    child = os.fork()
    if child == 0:
        disk, steps = test_safety.failing_at(at, lambda path: os.kill(os.getpid(), signal.SIGKILL))
        found = saving(step, disk, save_total_limit=2)
        print(steps[0] if all(isinstance(one, test_safety.Path) for one in found) else found, flush=True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
        print("killed", flush=True)
"""


@pytest.fixture
def run(tmp_path):
    """Call it with (at, step): saves that step in a process that is killed at its `at`-th change of the disk.

    It returns "killed", or the number of changes when the save came to its end.
    """
    script = KILLED.format(folder=str(Path(__file__).parent), root=str(tmp_path / "out"))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environ}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:

        def one(at, step):
            process.stdin.write(f"{at} {step}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield one
        process.stdin.close()


def test_a_kill_at_any_step_leaves_a_whole_checkpoint(toys, tmp_path, run):
    """60 kills, of all four ranks at once, while saving step after step with a limit of two."""
    root = tmp_path / "out"
    saving = Saving(toys, root)
    assert int(run(0, 1)) > 100
    assert int(run(0, 2)) > 100
    steps = int(run(0, 3))
    rng, kills, last, step = random.Random(1), 0, 3, 3
    # The last steps of a save rename folders and delete old ones; they get kills of their own.
    for at in [*(rng.randrange(1, steps - 40) for _ in range(20)), *range(steps - 40, steps + 1)]:
        # Every third save replaces the checkpoint of its own step, which moves the older one aside.
        step = step if at % 3 == 0 else step + 1
        kills += run(at, step) == "killed"
        found = latest_checkpoint(root)
        assert found is not None
        named = int(found.name.removeprefix("checkpoint-").removesuffix(".old"))
        assert named in (last, step), (named, last, step)
        saving.assert_holds(found, named)
        last = step = named
    assert kills >= 50
    assert int(run(0, step + 1)) > 100
    left = {path.name for path in root.iterdir()}
    assert f"checkpoint-{step + 1}" in left and "latest" in left and len(left) == 3, left


def test_the_limit_never_deletes_the_newest_or_a_protected_one(saving):
    for step in (10, 20, 30, 40):
        saving(step, save_total_limit=2, keep=("checkpoint-10",))
        time.sleep(0.002)
    assert [saved.step for saved in checkpoints(saving.root)] == [40, 10]
    saving(15, save_total_limit=1)
    assert [saved.step for saved in checkpoints(saving.root)] == [15]
    assert latest_checkpoint(saving.root).name == "checkpoint-15"
    saving.assert_holds(latest_checkpoint(saving.root), 15)


def test_saving_a_step_again_replaces_it(saving):
    saving(5)
    before = (saving.root / "checkpoint-5/manifest.json").read_bytes()
    saving(5)
    assert (saving.root / "checkpoint-5/manifest.json").read_bytes() != before
    assert {path.name for path in saving.root.iterdir()} == {"checkpoint-5", "latest"}
    saving.assert_holds(saving.root / "checkpoint-5", 5)


def test_incomplete_checkpoints_are_passed_over_with_a_note(saving, caplog):
    for step in (1, 2, 3):
        saving(step)
    victim = next((saving.root / "checkpoint-3").glob("optimizer-*.safetensors"))
    os.truncate(victim, victim.stat().st_size - 1)
    assert latest_checkpoint(saving.root).name == "checkpoint-2"
    assert victim.name in caplog.text
    (saving.root / "checkpoint-2/manifest.json").unlink()
    assert latest_checkpoint(saving.root).name == "checkpoint-1"
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_state(saving.root / "checkpoint-2")
    assert latest_checkpoint(saving.root / "nowhere") is None


def test_a_flipped_bit_in_any_file_is_found(saving):
    saving(1)
    folder = saving(2)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 8
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        kept, _ = path.read_bytes(), path.write_bytes(content)
        if path.name != "manifest.json":
            with pytest.raises(CheckpointError, match="damaged") as caught:
                verify(folder)
            assert str(path) in caught.value.why and "checkpoint-1" in caught.value.todo
        path.write_bytes(kept)
    verify(folder)


def test_an_output_folder_of_another_model_is_refused(saving, toys):
    check_output(saving.root, saving.config)
    saving(1)
    parameters = read_state(saving.root / "checkpoint-1")["model"]["parameters"]
    check_output(saving.root, saving.config, parameters)
    check_output(saving.root, toys.config(max_position_embeddings=4096))
    with pytest.raises(CheckpointError, match="another model") as caught:
        check_output(saving.root, toys.config(hidden_size=48))
    assert "hidden_size is 24 there, 48 here" in caught.value.why
    with pytest.raises(CheckpointError, match=f"parameters is {parameters} there, 7 here"):
        check_output(saving.root, saving.config, 7)
