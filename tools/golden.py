"""What every `make_golden.py` shares: random weights, float64 reference runs, files that regenerate byte-equal.

Not part of any distribution: it needs torch, which lives in the oracle environments only (see the README beside each
`make_golden.py`). A golden case is a tiny Hugging Face folder in the published format, plus `golden.safetensors`:
`input_ids` int64 [B, S], `logits` float32 [B, S, V], `loss` float32 scalar (mean next-token cross entropy over every
counted target) and `grad.<tensor name>` for every tensor of the folder.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

__all__ = [
    "IGNORED",
    "Golden",
    "double_precision",
    "random_ids",
    "random_weights",
    "reference",
    "write_case",
    "write_model_folder",
]

IGNORED = -100
# float32 forward and backward of the same implementation must stay this close to float64, or a case is too noisy
# to be compared at 1e-5.
NOISE = 2e-6

Array = np.ndarray[Any, Any]
Forward = Callable[[torch.nn.Module], torch.Tensor]


@dataclass(frozen=True)
class Golden:
    """`logits` [B, S, V], scalar `loss` and `grads` by tensor name, all float64."""

    logits: Array
    loss: Array
    grads: Mapping[str, Array]


@contextmanager
def double_precision() -> Iterator[None]:
    """Run reference code in float64 even where it asks for float32 (norms, softmax, rotary tables) by name."""
    names = ("float32", "float")
    saved = {name: getattr(torch, name) for name in names}
    saved_method, saved_default = torch.Tensor.float, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for name in names:
        setattr(torch, name, torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(torch, name, value)
        torch.Tensor.float = saved_method  # type: ignore[method-assign]
        torch.set_default_dtype(saved_default)


def random_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Array]:
    """float32 weights unlike any initialiser's: norm weights are not 1, biases are not 0, attention is not flat.

    A tensor depends on (seed, its name) only, so a case does not change when another tensor is added to it.
    """
    tied = "lm_head.weight" not in shapes
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(tuple(shape))
        if name.endswith(".bias"):
            values *= 0.2
        elif len(shape) == 1:
            values = 1.0 + 0.25 * values
        elif "embed" in name or "wte" in name:
            values *= 0.1 if tied else 0.2
        else:
            sharp = any(part in name for part in ("q_proj", "k_proj", "c_attn"))
            values *= (1.0 if sharp else 0.6) / np.sqrt(shape[1])
        weights[name] = values.astype(np.float32)
    return weights


def random_ids(vocab_size: int, batch: int, length: int, seed: int) -> Array:
    """Token ids, int64 [batch, length]; the last id of the vocabulary always occurs."""
    ids = np.random.default_rng([seed, 1]).integers(0, vocab_size, (batch, length), dtype=np.int64)
    ids[0, length // 2] = vocab_size - 1
    return ids


def write_model_folder(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Array], shards: int = 1) -> None:
    """Write `config.json` and the weights as a published model has them; several shards get an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, place = list(weights), {}
    for number in range(shards):
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        place.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def reference(model: torch.nn.Module, forward: Forward, labels: Array, names: Sequence[str]) -> Golden:
    """Logits, loss and gradients of `model` in its own precision.

    `labels` int64 [B, S] are the input ids with IGNORED where a token is not a target; position t predicts t + 1.
    """
    torch.set_num_threads(1)
    model.eval()
    model.zero_grad()
    logits = forward(model)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), torch.from_numpy(labels)[:, 1:].reshape(-1), ignore_index=IGNORED
    )
    loss.backward()
    parameters = dict(model.named_parameters())
    if set(parameters) != set(names):
        raise SystemExit(f"parameters and files disagree: {set(parameters) ^ set(names)}")
    grads = {}
    for name, parameter in parameters.items():
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            raise SystemExit(f"no gradient reached {name}")
        grads[name] = parameter.grad.numpy().copy()
    return Golden(logits.detach().numpy().copy(), loss.detach().numpy().copy(), grads)


def noise(exact: Golden, single: Golden) -> tuple[float, float]:
    """Largest absolute difference of logits and of gradients between a float64 and a float32 run."""
    grads = max(float(np.abs(exact.grads[name] - single.grads[name]).max()) for name in exact.grads)
    return float(np.abs(exact.logits - single.logits).max()), grads


def write_case(folder: Path, exact: Golden, single: Golden, extra: Mapping[str, Array]) -> None:
    """Check that float32 agrees with float64, then write the float64 values rounded once; `extra` holds the inputs."""
    logits_noise, grads_noise = noise(exact, single)
    if max(logits_noise, grads_noise) > NOISE:
        raise SystemExit(f"{folder.name}: float32 is off by {logits_noise:.1e} (logits), {grads_noise:.1e} (gradients)")
    tensors = {"logits": exact.logits, "loss": exact.loss}
    tensors |= {f"grad.{name}": grad for name, grad in exact.grads.items()}
    golden = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    golden["loss"] = golden["loss"].reshape(())
    save_file({**golden, **extra}, folder / "golden.safetensors", metadata={"format": "pt"})
    read_back = load_file(folder / "golden.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    smallest = min(float(np.abs(grad).max()) for grad in exact.grads.values())
    print(
        f"{folder.name:24s} {size:4.0f} KB  loss {float(read_back['loss']):.4f}"
        f"  max|logit| {np.abs(exact.logits).max():.2f}"
        f"  float32 noise: logits {logits_noise:.1e} gradients {grads_noise:.1e}"
        f"  smallest max|grad| {smallest:.1e}"
    )
