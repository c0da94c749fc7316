"""Killed at any moment, a run goes on as if nothing had been: no checkpoint is lost, none is corrupt."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from zoo_core.checkpoint import checkpoints, latest_checkpoint, verify
from zoo_core.checkpoint.manifest import read_manifest

KILLS = int(os.environ.get("ZOO_KILLS", "100"))
STEPS = 30
TP2_PP2 = "--tp 2 --pp 2 --nproc 4 --per_device_train_batch_size 2 --gradient_accumulation_steps 2".split()
QUIET = "--disable_tqdm true --report_to none".split()


def sums(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and checksum of each file of tensors, as the manifest has them."""
    return {name: facts for name, facts in read_manifest(folder).files.items() if name.endswith(".safetensors")}


def trained(folder: Path) -> dict[int, dict[str, tuple[int, int]]]:
    return {saved.step: sums(saved.path) for saved in checkpoints(folder)}


def chosen_kill(dice: random.Random, changes: dict[str, int], saves: int) -> dict:
    """A rank and a moment: a change of the disk, each kind as likely as any other, and a little later or at once."""
    rank = dice.choice([0, 0, 1, 2, 3])
    kind = dice.choice(
        ["", "create", "write", "rename", "remove", "sync", "write_at"] if rank == 0 else ["write_at", "sync"]
    )
    # rank 0 writes one of four parts, so what it counted is about what the others do too
    most = max(1, changes.get(kind, 1) * 3 // saves)
    delay = dice.choice([0.0, 0.0, dice.uniform(0.0, 0.02), dice.uniform(0.0, 0.3)])
    return {"rank": rank, "kind": kind, "nth": dice.randint(1, most), "delay": delay, "alone": dice.random() < 0.5}


@pytest.mark.soak
def test_a_hundred_kills_while_saving_under_tp2xpp2(nursery, words, tmp_path, capsys):
    """Four ranks are killed, all or one of them, while they save every step; then the run goes on from what is there.

    Each checkpoint that is found must be, bit for bit, that of the run that was never killed; none that was reported
    as saved may be missing.
    """
    common = [*TP2_PP2, *QUIET, "--save_steps", "1", "--logging_steps", "1", "--max_steps", str(STEPS)]
    began = time.monotonic()
    told = nursery.run(words(*common, out="straight"))
    assert told["statuses"] == [0] * 4, nursery.log()
    straight = trained(tmp_path / "straight")
    assert sorted(straight) == list(range(1, STEPS + 1))
    dice, root, log = random.Random(7), tmp_path / "out", ""
    kills = {"sync": 0, "async": 0}
    lost = corrupt = resumed = rounds = 0
    held = 0  # the step of the newest checkpoint that is known to be on the disk
    while sum(kills.values()) < KILLS:
        rounds += 1
        assert rounds < 3 * KILLS, log
        mode = "async" if rounds % 2 else "sync"
        kill = chosen_kill(dice, told["changes"], STEPS)
        more = [
            "--save_total_limit",
            "2",
            *(["--async_save"] if mode == "async" else []),
            *(["--resume"] if held else []),
        ]
        ended = nursery.run(words(*common, *more), kill=kill)
        log = f"{kill}\n{ended}\n{nursery.log()}"
        if held:
            assert f"checkpoint-{held} (step {held})" in log, log
            resumed += 1
        reported = [int(step) for step in re.findall(r"saved \S+checkpoint-(\d+) in", log)]
        if -signal.SIGKILL in ended["statuses"]:
            kills[mode] += 1
        else:
            assert ended["statuses"] == [0] * 4, log
        found = latest_checkpoint(root) if root.is_dir() else None
        step = int(found.name.split("-")[1].removesuffix(".old")) if found else 0
        lost += step < max([held, *reported])
        for saved in checkpoints(root) if found else ():
            verify(saved.path)
            corrupt += sums(saved.path) != straight[saved.step]
        held = step
        if held >= STEPS - 3:  # too little is left to be killed in
            shutil.rmtree(root)
            held = 0
        with capsys.disabled():
            how = (
                f"rank {kill['rank']} {'alone' if kill['alone'] else 'and all'}, {kill['kind'] or 'any'} {kill['nth']}"
            )
            print(f"{sum(kills.values())} of {KILLS} kills ({mode}; {how}): at step {step}; "
                  f"{lost} lost, {corrupt} corrupt", flush=True)  # fmt: skip
        assert lost == corrupt == 0, log
    with capsys.disabled():
        print(f"{kills['sync']} kills of synchronous and {kills['async']} of asynchronous saves, {resumed} resumed, "
              f"{lost} lost, {corrupt} corrupt, {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip


SECOND_SAVE = {"rank": 0, "kind": "create", "nth": 3, "delay": 0, "alone": False}
"""While the second checkpoint of a run is begun: one has two files of tensors."""


def goes_on_exactly(nursery, words, folder: Path, read_losses, world: int, *more: str) -> None:
    """30 steps straight, and 10 + kill + 10 + kill + 10: equal losses and, bit for bit, equal checkpoints."""
    common = [*QUIET, *more, "--save_steps", "10", "--logging_steps", "100", "--max_steps", "30"]
    assert nursery.run(words(*common, out="straight"), world)["statuses"] == [0] * world, nursery.log()
    for resumed, kill, mode in ((0, SECOND_SAVE, "true"), (10, SECOND_SAVE, "false"), (20, None, "true")):
        own = ["--async_save", mode, *(["--resume"] if resumed else [])]
        ended = nursery.run(words(*common, *own), world, kill)
        assert ended["statuses"] == ([-signal.SIGKILL] * world if kill else [0] * world), nursery.log()
        assert (f"checkpoint-{resumed} (step {resumed})" in nursery.log()) == (resumed > 0)
    assert read_losses(folder / "out") == read_losses(folder / "straight")
    straight, out = trained(folder / "straight"), trained(folder / "out")
    assert straight == out and sorted(out) == [10, 20, 30]
    for name in out[30]:
        ends = [(folder / run / "checkpoint-30" / name).read_bytes() for run in ("out", "straight")]
        assert ends[0] == ends[1]


def test_resume_after_kills_is_exact(nursery, words, tmp_path, read_losses):
    goes_on_exactly(nursery, words, tmp_path, read_losses, 1, "--max_seq_length", "16", "--num_hidden_layers", "1")


@pytest.mark.soak
def test_resume_after_kills_is_exact_under_tp2xpp2(nursery, words, tmp_path, read_losses):
    goes_on_exactly(nursery, words, tmp_path, read_losses, 4, *TP2_PP2)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_rank_that_dies_while_others_save_is_told_at_once(nursery, words, tmp_path, mode):
    """Nobody ends the other rank here, as a launcher would: it ends by itself and says why."""
    common = ["--tp", "2", "--nproc", "2", *QUIET, "--save_steps", "2", "--max_steps", "40"]
    kill = {"rank": 1, "kind": "sync", "nth": 3, "delay": 0, "alone": True}
    began = time.monotonic()
    more = ["--async_save"] if mode == "async" else []
    ended = nursery.run(words(*common, *more), 2, kill, grace=None, limit=60)
    assert ended["statuses"] == [2, -signal.SIGKILL] and time.monotonic() - began < 50
    said = nursery.log()
    assert "this is a bug" not in said
    assert "rank 1 has ended" in said or "another process of this run has ended" in said
    assert f"--resume goes on from {tmp_path / 'out' / 'checkpoint-2'}" in said or "checkpoint-2 is whole" in said
    assert [saved.step for saved in checkpoints(tmp_path / "out")] == [2]
