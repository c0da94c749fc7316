"""Make `gptq.npz`: weights that PaddleSlim's GPTQ quantises, in an environment of its own.

    uv venv slim && uv pip install --python slim/bin/python paddlepaddle==3.3.1 "numpy<2" paddleslim==2.6.0 \
        six "setuptools<80" pip requests decorator
    slim/bin/python make_gptq.py

PaddleSlim 2.6.0 needs these packages without saying so, and numpy 1 for the opencv that it pins. Its GPTQ fails with
this Paddle where no input feature is 0 everywhere, so one of ours is. It writes a Linear's weight as floats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddleslim.quant.advanced import GPTQ

TOKENS, FEATURES, WIDTH, DEAD = 256, 64, 24, 5
CASES = {
    "plain4": {"bits": 4, "actorder": False},
    "order4": {"bits": 4, "actorder": True},
    "plain3": {"bits": 3, "actorder": False},
    "order3": {"bits": 3, "actorder": True},
    "plain8": {"bits": 8, "actorder": False},
    "blocks4": {"bits": 4, "actorder": False, "blocksize": 16},
    "groups4": {"bits": 4, "actorder": False, "blocksize": 32, "groupsize": 32},
    "groups3": {"bits": 3, "actorder": False, "blocksize": 24, "groupsize": 32},
}

random = np.random.default_rng(0)
mixed = random.standard_normal((FEATURES, FEATURES)) / 8 + np.diag(np.linspace(0.2, 3, FEATURES))
x = (random.standard_normal((TOKENS, FEATURES)) @ mixed).astype(np.float32)
x[:, DEAD] = 0
weight = random.standard_normal((FEATURES, WIDTH)).astype(np.float32)
weight[DEAD] *= 0.01  # PaddleSlim lets weights that nothing reads have a say in the scales
found = {"x": x, "weight": weight}
for name, settings in CASES.items():
    options = dict(settings)
    linear = nn.Linear(FEATURES, WIDTH, bias_attr=False)
    linear.weight.set_value(weight)
    watched = GPTQ(linear, quant_bits=options.pop("bits"))
    watched(paddle.to_tensor(x))
    watched.fasterquant(**options)
    found[name] = linear.weight.numpy()
np.savez_compressed(Path(__file__).with_name("gptq.npz"), **found)
