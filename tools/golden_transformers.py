"""Golden folders for the architectures that Hugging Face transformers has; see `golden.py` for what a folder holds.

Needs the first environment of the goldens' READMEs: torch==2.13.0, transformers==5.23.0, safetensors==0.8.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import golden
import numpy as np
import torch
import transformers

__all__ = ["Case", "make_all"]

PADS, SECOND_LENGTH = 7, 7


@dataclass(frozen=True)
class Case:
    """`config` over the family's base, less the keys of `without`.

    `control` is a change of configuration that must visibly change the logits. `inputs` is plain, left_padded
    or packed.
    """

    config: Mapping[str, Any]
    without: tuple[str, ...] = ()
    length: int = 20
    shards: int = 1
    control: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "plain"

    def published(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The `config.json` of this case."""
        return {key: value for key, value in {**base, **self.config}.items() if key not in self.without}


def configuration(published: Mapping[str, Any]) -> transformers.PreTrainedConfig:
    """What transformers makes of a published `config.json`, but in the precision of the moment."""
    values = {key: value for key, value in published.items() if value is not None and key != "torch_dtype"}
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    config._attn_implementation = "eager"
    return config


def load(folder: Path) -> torch.nn.Module:
    """The float32 model of `folder`, read as any user would; a missing or surplus tensor stops the script."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{folder.name}: {info}")
    return model


def rebuild(model: torch.nn.Module, published: Mapping[str, Any]) -> torch.nn.Module:
    """A model of the same weights in the precision of the moment, from a published configuration."""
    other = type(model)(configuration(published))
    other.load_state_dict(model.state_dict())
    return other


def make_inputs(case: Case, vocab: int, seed: int) -> tuple[golden.Forward, dict[str, np.ndarray], np.ndarray]:
    """A function that runs a model, the tensors to store, and the labels."""
    ids = golden.random_ids(vocab, 2, case.length, seed)
    if case.inputs == "left_padded":
        mask = np.ones_like(ids)
        mask[1, :PADS] = 0
        ids[mask == 0] = 0
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        labels = np.where(mask == 1, ids, golden.IGNORED)
        # The first real token has no real context that could predict it.
        labels[1, PADS] = golden.IGNORED
        tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}
        arguments = {k: torch.from_numpy(tensors[k]) for k in ("input_ids", "attention_mask", "position_ids")}
        keep = torch.from_numpy(mask)[:, :, None]
        return lambda model: model(**arguments, use_cache=False).logits * keep, tensors, labels
    if case.inputs == "packed":
        lengths = (case.length - SECOND_LENGTH, SECOND_LENGTH)
        parts = [row[None, :n] for row, n in zip(ids, lengths, strict=True)]
        packed = np.concatenate(parts, axis=1)
        labels = packed.copy()
        labels[0, lengths[0]] = golden.IGNORED
        positions = np.concatenate([np.arange(n) for n in lengths])[None]
        tensors = {
            "input_ids": packed,
            "position_ids": positions,
            "labels": labels,
            "sequence_lengths": np.array(lengths, dtype=np.int64),
        }

        def separately(model: torch.nn.Module) -> torch.Tensor:
            runs = [model(input_ids=torch.from_numpy(part.copy()), use_cache=False).logits for part in parts]
            return torch.cat(runs, dim=1)

        return separately, tensors, labels
    return lambda model: model(input_ids=torch.from_numpy(ids), use_cache=False).logits, {"input_ids": ids}, ids


def make(folder: Path, case: Case, base: Mapping[str, Any], seed: int) -> None:
    """Write one folder, or stop with the reason why the case would prove nothing."""
    config = case.published(base)
    empty = transformers.AutoModelForCausalLM.from_config(configuration(config))
    shapes = {name: parameter.shape for name, parameter in empty.named_parameters()}
    golden.write_model_folder(folder, config, golden.random_weights(shapes, seed), case.shards)
    forward, inputs, labels = make_inputs(case, config["vocab_size"], seed)
    model = load(folder)
    single = golden.reference(model, forward, labels, list(shapes))
    with golden.double_precision():
        exact = golden.reference(rebuild(model, config), forward, labels, list(shapes))
        if case.control:
            other = golden.reference(rebuild(model, {**config, **case.control}), forward, labels, list(shapes))
            if np.abs(other.logits - exact.logits).max() < 1e-2:
                raise SystemExit(f"{folder.name}: {case.control} changes nothing, so the case proves nothing")
    golden.write_case(folder, exact, single, inputs)


def make_all(here: Path, cases: Mapping[str, Case], base: Mapping[str, Any], seed: int, wanted: Sequence[str]) -> None:
    """Write the wanted cases (all if none is named) as folders of `here`; case number n has seed `seed` + n."""
    for number, (name, case) in enumerate(cases.items()):
        if not wanted or name in wanted:
            make(here / name, case, base, seed + number)
