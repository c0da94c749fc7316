"""`zoo doctor`: what it reports, and that a missing Paddle is a finding, not a failure."""

from __future__ import annotations

import json
import os

import pytest

from zoo_core.cli import doctor, main
from zoo_core.environment import cpu_vendor


def findings(capsys):
    status = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    return status, [(row["name"], row["value"]) for row in found["found"]], found["problems"]


def test_without_paddle_it_says_how_to_install_both(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "paddle_distribution", lambda: None)
    status, _, problems = findings(capsys)
    missing = next(problem for problem in problems if "not installed" in problem["what"])
    assert status == 1
    assert "pip install 'zoo-core[cpu]'" in missing["do"] and "Paddle's own index" in missing["do"]


def test_what_the_user_set_is_named_as_kept(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "paddle_distribution", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    before = dict(os.environ)
    _, rows, _ = findings(capsys)
    said = [text for label, text in rows if label == "environment"]
    assert any(text.startswith("OMP_NUM_THREADS=7, set by you and kept") for text in said)
    assert any("set by zoo" in text for text in said) == (cpu_vendor() == "AMD")
    assert dict(os.environ) == before


@pytest.mark.parametrize(("numpy", "bad"), [("2.3.5", False), ("2.4.0", True), ("2.10.1", True)])
def test_a_numpy_that_breaks_paddle_is_a_problem(capsys, monkeypatch, numpy, bad):
    monkeypatch.setattr(doctor, "paddle_distribution", lambda: None)
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: numpy if name == "numpy" else real(name))
    assert any("numpy" in problem["what"] for problem in findings(capsys)[2]) == bad


def test_a_zoo_home_that_is_no_folder_is_a_problem(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "paddle_distribution", lambda: None)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "none"))
    assert any("ZOO_HOME" in problem["what"] for problem in findings(capsys)[2])


def test_a_paddle_that_does_not_load_is_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "raise ImportError('libcudart.so.12 is missing')")
    status, _, problems = findings(capsys)
    assert status == 1 and any("libcudart.so.12" in problem["what"] for problem in problems)


def test_gpus_with_a_cpu_paddle_are_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "paddle_distribution", lambda: ("paddlepaddle", "3.3.1"))
    monkeypatch.setattr(doctor, "device_count", lambda device, environ: 8)
    monkeypatch.setattr(doctor, "_PROBE", "print('cpu')")
    problems = findings(capsys)[2]
    assert any("8 GPUs" in p["what"] and "Paddle's own index" in p["do"] for p in problems)


def test_the_text_names_each_thing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "print('cpu')")
    main(["doctor"])
    out = capsys.readouterr().out
    for word in ("python", "numpy", "cpu", "memory", "OMP_NUM_THREADS", "paddle", "disk", "ZOO_HOME", "zoo-llama"):
        assert word in out
