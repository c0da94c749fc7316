"""How far programs may be off: rounded activations turn the last bit of a value into a step of an integer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from zoo_core.errors import ConfigError
from zoo_core.export.equal import Wanted, compare, tolerance_of
from zoo_core.quantization import QuantSpec


@pytest.mark.parametrize(
    ("dtype", "integers", "off", "same"),
    [
        ("float32", None, 4e-6, True),
        ("float32", None, 1e-4, False),
        ("float32", QuantSpec(bits=4), 1e-4, False),
        ("float32", QuantSpec("gptq", 4, 16), 1e-4, False),
        ("float32", QuantSpec("w8a8"), 1e-3, True),
        ("float32", QuantSpec("w8a8"), 3e-2, False),
        ("bfloat16", None, 1e-3, True),
    ],
)
def test_what_is_the_same_model(dtype, integers, off, same):
    logits_TBV = np.random.default_rng(0).standard_normal((1, 1, 64)).astype(np.float32)
    logits_TBV[0, 0, 7] = 5.0
    passes = SimpleNamespace(cache=lambda *_: None, read=lambda *_: logits_TBV[0] + 5 * np.float32(off))
    tolerance = tolerance_of(dtype, integers)

    def compared():
        return compare("programs", passes, [Wanted([[1]], logits_TBV)], SimpleNamespace(max_length=2), tolerance)

    if same:
        assert compared()["difference"] == pytest.approx(5 * off, rel=0.2)
        return
    with pytest.raises(ConfigError, match="are not the model"):
        compared()
