"""Make the golden folders of DeepSeek-V3's main model beside this file, from Hugging Face transformers.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.

transformers keeps a layer's experts in two tensors; the folders have them as published, one by one, which transformers
joins when it reads them. The gradients are cut apart here in the same way.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from golden_transformers import Case, configuration, load, make_inputs  # noqa: E402

# The choice of experts jumps where two are as good: every choice must be clearer than this.
MARGIN = 1e-3
BASE: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "kv_lora_rank": 10,
    "max_position_embeddings": 64,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 6,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 3,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "float32",
    "transformers_version": "4.46.3",
    "v_head_dim": 8,
    "vocab_size": 67,
}
YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 16,
    "type": "yarn",
}
CASES = {
    # Three heads, two groups of four, an uneven vocabulary, values wider than keys; YaRN beyond its trained length.
    "yarn_odd_heads": Case(
        {"rope_scaling": YARN, "vocab_size": 101, "routed_scaling_factor": 1.5},
        length=26,
        control={"rope_scaling": {**YARN, "mscale_all_dim": 1.0}},
    ),
    "no_q_lora": Case(
        {"q_lora_rank": None, "num_attention_heads": 4, "num_key_value_heads": 4, "rope_theta": 500.0},
        control={"rope_theta": 10000.0},
    ),
    # Weights of a token's experts as they are; two shared experts; one group; every layer with experts.
    "one_group": Case(
        {
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "n_routed_experts": 6,
        },
        control={"norm_topk_prob": True},
    ),
    "left_padded": Case({"rope_scaling": YARN}, inputs="left_padded"),
    "packed": Case({"v_head_dim": 4}, inputs="packed"),
    "tied_two_files": Case(
        {"tie_word_embeddings": True, "rope_interleave": False}, shards=2, control={"rope_interleave": True}
    ),
}
# Of the cases whose first seed leaves a choice unclear, the next that does not.
SEEDS = {"one_group": 3201, "tied_two_files": 3501}


def published_shapes(config: Mapping[str, Any], model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a published folder, the bias of the router included."""
    width, hidden, found = config["moe_intermediate_size"], config["hidden_size"], {}
    tensors = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if n.endswith("_bias")}}
    for name, tensor in tensors.items():
        at, _, last = name.partition(".experts.")
        if not last:
            found[name] = tuple(tensor.shape)
            continue
        for expert in range(config["n_routed_experts"]):
            for part in ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",):
                shape = (hidden, width) if part == "down_proj" else (width, hidden)
                found[f"{at}.experts.{expert}.{part}.weight"] = shape
    return found


def published_gradients(grads: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients by published name."""
    found = {}
    for name, grad in grads.items():
        at, _, last = name.partition(".experts.")
        if not last:
            found[name] = grad
            continue
        for expert, each in enumerate(grad):
            halves = np.split(each, 2) if last == "gate_up_proj" else [each]
            for part, half in zip(
                ("gate_proj", "up_proj") if len(halves) == 2 else ("down_proj",), halves, strict=True
            ):
                if not np.abs(half).max() > 0:
                    raise SystemExit(f"no token meets expert {expert} of {at}")
                found[f"{at}.experts.{expert}.{part}.weight"] = half
    return found


def make_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Random weights; routers are sharp, and their biases about as large as the differences of scores."""
    weights = golden.random_weights(shapes, seed)
    for name, values in weights.items():
        if name.endswith("e_score_correction_bias"):
            weights[name] = ((values - 1.0) * 0.6).astype(np.float32)
        elif name.endswith("mlp.gate.weight"):
            weights[name] = values * np.float32(2.0)
    return weights


class Choices:
    """The scores of every router during a run, with what the choices hang on."""

    def __init__(self, model: torch.nn.Module, config: Mapping[str, Any]) -> None:
        self.config, self.margin = config, float("inf")
        self.changed = 0
        for name, module in model.named_modules():
            if re.fullmatch(r".*\.mlp\.gate", name):
                module.register_forward_hook(self.see)

    def see(self, module: torch.nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        scores = output[0].detach().sigmoid()
        for with_bias in (True, False):
            corrected = scores + module.e_score_correction_bias if with_bias else scores
            groups = corrected.reshape(len(scores), self.config["n_group"], -1)
            if groups.shape[1] > 1:
                worth = groups.topk(2, dim=-1)[0].sum(-1).sort(descending=True)
                best = worth[0][:, self.config["topk_group"] - 1] - worth[0][:, self.config["topk_group"]]
                shut = torch.ones_like(worth[0]).scatter_(1, worth[1][:, : self.config["topk_group"]], 0).bool()
                groups = groups.masked_fill(shut.unsqueeze(-1), float("-inf"))
            ranked, order = groups.flatten(1).sort(descending=True)
            k = self.config["num_experts_per_tok"]
            chosen = order[:, :k].sort(-1)[0]
            if with_bias:
                gap = ranked[:, k - 1] - ranked[:, k]
                self.margin = min(self.margin, float(gap.min()))
                if groups.shape[1] > 1:
                    self.margin = min(self.margin, float(best.min()))
                corrected_choice = chosen
            else:
                self.changed += int((chosen != corrected_choice).any(-1).sum())


def build(config: Mapping[str, Any], like: torch.nn.Module | None = None) -> torch.nn.Module:
    """A model of a published configuration in the precision of the moment, with the weights of `like`.

    The experts run one by one, as the model's own file has it; the grouped kernel wants aligned widths.
    """
    values = configuration(config)
    values.q_lora_rank = config["q_lora_rank"]
    values._experts_implementation = "eager"
    model = transformers.DeepseekV3ForCausalLM(values)
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def make(folder: Path, case: Case, seed: int) -> None:
    """Write one folder, or stop with the reason why the case would prove nothing."""
    config = case.published(BASE)
    empty = build(config)
    shapes = published_shapes(config, empty)
    golden.write_model_folder(folder, config, make_weights(shapes, seed), case.shards)
    forward, inputs, labels = make_inputs(case, config["vocab_size"], seed)
    model = load(folder)
    model.config._experts_implementation = "eager"
    names = [name for name, _ in model.named_parameters()]
    single = golden.reference(model, forward, labels, names)
    with golden.double_precision():
        wide = build(config, model)
        choices = Choices(wide, config)
        exact = golden.reference(wide, forward, labels, names)
        if case.control:
            other = golden.reference(build({**config, **case.control}, model), forward, labels, names)
            if np.abs(other.logits - exact.logits).max() < 1e-2:
                raise SystemExit(f"{folder.name}: {case.control} changes nothing, so the case proves nothing")
    if choices.margin < MARGIN:
        raise SystemExit(f"{folder.name}: seed {seed} leaves a choice of experts to {choices.margin:.1e}")
    if not choices.changed:
        raise SystemExit(f"{folder.name}: the bias of the routers changes no choice")
    print(f"{'':24s} clearest by {choices.margin:.1e}; the bias changes {choices.changed} choices")
    exact, single = (
        golden.Golden(found.logits, found.loss, published_gradients(found.grads)) for found in (exact, single)
    )
    golden.write_case(folder, exact, single, inputs)


if __name__ == "__main__":
    for number, (name, case) in enumerate(CASES.items()):
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(HERE / name, case, SEEDS.get(name, 3000 + 100 * number))
