"""The core's checks give a model its parameters; a router also has a bias, which is a buffer."""

from __future__ import annotations

import pytest

from zoo_core.testing import models


@pytest.fixture(autouse=True)
def _with_buffers(monkeypatch):
    parameters_only = models.set_weights

    def set_weights(layer, table, weights, single=str):
        parameters_only(layer, table, weights, single)
        for name, buffer in layer.named_buffers():
            buffer.set_value(weights[single(name)])

    monkeypatch.setattr(models, "set_weights", set_weights)
