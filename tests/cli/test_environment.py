"""What zoo sets for the CPU, and what it leaves alone."""

from __future__ import annotations

import pytest

from zoo_core import environment
from zoo_core.errors import MachineError


@pytest.fixture
def machine(monkeypatch):
    def make(vendor="AMD", cores=8):
        monkeypatch.setattr(environment, "cpu_vendor", lambda: vendor)
        monkeypatch.setattr(environment, "cores", lambda: cores)

    return make


def test_amd_gets_the_fast_path_and_the_cores(machine):
    machine("AMD", 8)
    environ = {}
    applied = environment.apply_cpu_environment(1, environ)
    assert applied == environ == {"OMP_NUM_THREADS": "8", "MKL_DEBUG_CPU_TYPE": "5"}


def test_other_processors_do_not(machine):
    machine("Intel", 8)
    assert environment.apply_cpu_environment(1, {}) == {"OMP_NUM_THREADS": "8"}


@pytest.mark.parametrize(("processes", "threads"), [(2, "4"), (3, "2"), (8, "1"), (20, "1")])
def test_local_processes_share_the_cores(machine, processes, threads):
    machine("AMD", 8)
    assert environment.apply_cpu_environment(processes, {})["OMP_NUM_THREADS"] == threads


def test_what_the_user_set_stays(machine):
    machine("AMD", 8)
    environ = {"OMP_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": ""}
    assert environment.apply_cpu_environment(1, environ) == {}
    assert environ == {"OMP_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": ""}


def test_this_machine_answers():
    assert environment.cores() >= 1
    assert environment.cpu_vendor()
    memory = environment.free_memory()
    assert memory is None or memory > 0


def test_local_processes_come_from_the_launcher():
    assert environment.local_processes({}) == 1
    assert environment.local_processes({"PADDLE_TRAINERS_NUM": "8", "PADDLE_LOCAL_SIZE": "4"}) == 4


def test_a_missing_paddle_says_how_to_install_each(monkeypatch):
    monkeypatch.setattr(environment, "paddle_distribution", lambda: None)
    with pytest.raises(MachineError) as caught:
        environment.require_paddle("cpu")
    assert "pip install 'zoo-core[cpu]'" in caught.value.todo and environment.INSTALL_PAGE in caught.value.todo


def test_a_paddle_for_another_device_is_refused(monkeypatch):
    monkeypatch.setattr(environment, "paddle_distribution", lambda: ("paddlepaddle", "3.3.1"))
    environment.require_paddle("cpu")
    with pytest.raises(MachineError, match="cannot run on gpu"):
        environment.require_paddle("gpu")


def test_visible_devices_are_counted():
    assert environment.device_count("cpu", {}) == 1
    assert environment.device_count("gpu", {"CUDA_VISIBLE_DEVICES": "0,2"}) == 2
    assert environment.device_count("gpu", {"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert environment.device_count("gpu", {"CUDA_VISIBLE_DEVICES": "-1"}) == 0


def test_auto_is_what_paddle_is_built_for_and_the_machine_has(monkeypatch):
    monkeypatch.setattr(environment, "paddle_distribution", lambda: ("paddlepaddle-gpu", "3.3.1"))
    monkeypatch.setattr(environment, "device_count", lambda device, environ: 2)
    assert environment.device_of("auto") == "gpu" and environment.device_of("cpu") == "cpu"
    monkeypatch.setattr(environment, "device_count", lambda device, environ: 0)
    assert environment.device_of("auto") == "cpu"
