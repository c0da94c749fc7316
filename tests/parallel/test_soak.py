"""Thirty starts of a four-process job in a row (`make soak`): rendezvous and groups must never race."""

from __future__ import annotations

import time

import numpy as np
import parallel_cases as cases
import pytest
from parallel_jobs import Results

STARTS = 30


@pytest.mark.soak
def test_thirty_starts(tmp_path, capsys):
    results = Results(tmp_path, forked=False)
    run = {"steps": {"epsilon": cases.DEFAULT_EPSILON, "last": 1}}
    common = {"model": "llama", "recompute": "none", "runs": run}
    results.run([{**common, "id": "single", "layout": "single"}], 1)
    expected = results.of("single")["steps"]["steps"]
    failed = []
    for number in range(1, STARTS + 1):
        began = time.monotonic()
        name = f"start{number}"
        results.run([{**common, "id": name, "layout": "tp2xpp2"}], 4)
        ended = f"{time.monotonic() - began:.0f} s"
        if why := results.failure(name):
            failed.append(why)
        else:
            np.testing.assert_allclose(results.of(name)["steps"]["steps"], expected, **cases.TOLERANCE)
        with capsys.disabled():
            print(f"start {number} of {STARTS}: {'FAILED' if why else 'ok'}, {ended}; {len(failed)} failed", flush=True)
    assert not failed, failed[0]
