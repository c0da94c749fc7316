"""T1: the pipeline list, run in order, is the model, bit for bit."""

from __future__ import annotations

from functools import partial

import numpy as np
from paddle import Tensor

from zoo_core.config import ModelConfig
from zoo_core.registry import Architecture
from zoo_core.testing.models import build, gradients, next_token_loss, random_ids, random_weights, set_weights
from zoo_ops import Batch

__all__ = ["check_pipeline"]


def check_pipeline(arch: Architecture, config: ModelConfig, labels: Tensor | None = None) -> None:
    """The layers hold the tensors of the table, under their prefixes, and give the model's logits and gradients.

    A tied head is a parameter of its own in the pipeline; its gradient and the embedding's add up to the model's.

    Args:
        labels: int64 [2, 12], of the batch, for layers that make a loss of them.
    """
    table, layers = arch.table(config), arch.pipe_layers(config)
    blocks = sum(layer.is_block for layer in layers)
    assert blocks == config.num_hidden_layers, f"{blocks} blocks in the list, {config.num_hidden_layers} layers"
    weights, ids = random_weights(table), random_ids(config, 2, 12)

    model = build(arch, config, weights)
    wanted_logits = model(Batch(ids, labels=labels)).logits
    next_token_loss(wanted_logits, ids).backward()
    wanted = gradients(model, lambda name: table[name].single)

    batch, x, built = Batch(ids, labels=labels), None, [layer.factory() for layer in layers]
    for entry, layer in zip(layers, built, strict=True):
        for name in layer.state_dict():
            assert entry.single(name) in table, (
                f"the layer of the pipeline list with the prefix {entry.prefix!r} holds {entry.single(name)}, which is "
                "no row of the table; correct the prefix, or add the row"
            )
        set_weights(layer, table, weights, entry.single)
        if entry.attention:
            assert any(path == entry.attention for path, _ in layer.named_sublayers()), (
                f"{entry.prefix} has no sublayer {entry.attention}"
            )
    for layer in built:
        x = layer(x, batch, None)
    assert x is not None and np.array_equal(x.numpy(), wanted_logits.numpy()), "the logits differ from the model's"
    next_token_loss(x, ids).backward()

    found: dict[str, list[np.ndarray]] = {}
    for entry, layer in zip(layers, built, strict=True):
        for name, gradient in gradients(layer, entry.single).items():
            assert name not in found, f"two layers hold {name}"
            found[name] = [gradient]
    trained = {name for name, rule in table.items() if not rule.buffer}
    assert set(found) == trained, f"not in the pipeline or not in the table: {sorted(set(found) ^ trained)}"
    for name, rule in table.items():
        if rule.single != name:
            found[rule.single] += found.pop(name)
    for name, parts in found.items():
        # Three parts or more are added in another order than the model gathers them.
        close = np.array_equal if len(parts) < 3 else partial(np.allclose, rtol=1e-5, atol=1e-8)
        assert close(sum(parts), wanted[name]), f"the gradient of {name} differs from the model's"
