"""`zoo calibrate`: a description of this machine that `zoo plan` reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo_core.cli import main
from zoo_core.plan.hardware import hardware


def test_this_machine_is_described(tmp_path, capsys):
    path = tmp_path / "here.json"
    words = ["calibrate", "--device", "cpu", "--seconds", "0.05", "--output", str(path)]
    done = subprocess.run([sys.executable, "-m", "zoo_core", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TFLOP/s" in done.stdout and str(path) in done.stdout
    found = hardware(str(path))
    assert found.device == "cpu" and set(found.flops) == {"float32"}
    assert 1e9 < found.peak("float32") < 1e14 and 1e8 < found.bandwidth < 1e13 and 0 < found.matmul <= 1
    assert 100 * 2**20 < found.process < 2**30
    words = ["plan", "qwen/qwen-7b", "--scale", "tiny", "--world", "2", "--hardware", str(path), "--json"]
    assert main([*words, "--max_seq_length", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["prediction"]["hardware"] == "here"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seconds", "soon"), "--seconds soon is no time"),
        (("--like", "abacus"), "no hardware 'abacus'"),
        (("--colour",), "does not know '--colour'"),
    ],
)
def test_what_is_not_understood(capsys, words, said):
    assert main(["calibrate", *words]) == 2
    assert said in capsys.readouterr().err
