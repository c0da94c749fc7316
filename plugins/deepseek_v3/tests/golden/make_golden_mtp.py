"""Make the golden files of multi-token prediction: the DeepSeek-V3 report's equations, written out in torch.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden_mtp.py`; it writes the same bytes every time.

transformers has the module for drafting, not for training. So the losses are computed here from the report alone
(arXiv 2412.19437, equations 1 to 25), one sequence at a time, in float64. Where transformers has the same quantity, the
script stops unless it agrees: the main model's logits, and the hidden states and logits of the prediction.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from golden_transformers import Case, make_inputs  # noqa: E402
from make_golden import BASE, MARGIN, YARN, build, make_weights, published_shapes  # noqa: E402
from transformers.modeling_layers import MtpModel  # noqa: E402

MTP: dict[str, Any] = {
    "num_nextn_predict_layers": 1,
    "num_nextn_predict_lambda": 0.3,
    "hidden_size": 20,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
}
CASES = {
    "mtp_left_padded": Case({**MTP, "rope_scaling": YARN, "vocab_size": 61}, inputs="left_padded"),
    "mtp_packed": Case(
        {**MTP, "num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_lambda": 0.1}, inputs="packed"
    ),
    "mtp_tied": Case({**MTP, "tie_word_embeddings": True, "q_lora_rank": None, "num_hidden_layers": 1}),
}
SEEDS = {"mtp_left_padded": 4000, "mtp_packed": 4100, "mtp_tied": 4200}


class Reference:
    """The report's equations for one sequence, on the tensors `w` of a published folder."""

    def __init__(self, config: Mapping[str, Any], w: Mapping[str, Tensor]) -> None:
        self.c, self.w, self.margin = config, w, math.inf

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T

    def rotate(self, x: Tensor) -> Tensor:
        """Turn neighbours of [T, ..., d] by the angles of positions 0 .. T - 1 (YaRN: arXiv 2309.00071)."""
        width, base, yarn = x.shape[-1], self.c["rope_theta"], self.c["rope_scaling"]
        magnitude, angles = 1.0, []
        for pair in range(width // 2):
            frequency = base ** (-2 * pair / width)
            if yarn:

                def dim_of(turns: float) -> float:
                    return (
                        width
                        * math.log(yarn["original_max_position_embeddings"] / (turns * 2 * math.pi))
                        / (2 * math.log(base))
                    )

                low = max(math.floor(dim_of(yarn["beta_fast"])), 0)
                high = min(math.ceil(dim_of(yarn["beta_slow"])), width - 1)
                ramp = min(max((pair - low) / (high - low if high != low else 0.001), 0.0), 1.0)
                frequency = frequency / yarn["factor"] * ramp + frequency * (1.0 - ramp)
                magnitude = self.mscale(yarn["mscale"]) / self.mscale(yarn["mscale_all_dim"])
            angles.append(torch.arange(len(x), dtype=x.dtype) * frequency)
        turn = torch.stack(angles, -1).reshape(len(x), *[1] * (x.dim() - 2), -1)
        first, second = x[..., 0::2], x[..., 1::2]
        cos, sin = turn.cos() * magnitude, turn.sin() * magnitude
        return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)

    def mscale(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.c["rope_scaling"]["factor"]) + 1.0

    def attention(self, x: Tensor, at: str) -> Tensor:
        """Equations 1 to 11."""
        c, length = self.c, len(x)
        heads, plain, turned = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
        if c["q_lora_rank"] is None:
            q = self.linear(x, f"{at}.q_proj")
        else:
            q = self.linear(self.norm(self.linear(x, f"{at}.q_a_proj"), f"{at}.q_a_layernorm"), f"{at}.q_b_proj")
        q = q.reshape(length, heads, plain + turned)
        both = self.linear(x, f"{at}.kv_a_proj_with_mqa")
        latent = self.norm(both[:, : c["kv_lora_rank"]], f"{at}.kv_a_layernorm")
        kv = self.linear(latent, f"{at}.kv_b_proj").reshape(length, heads, plain + c["v_head_dim"])
        q_turned, k_turned = self.rotate(q[..., plain:]), self.rotate(both[:, c["kv_lora_rank"] :])
        scores = torch.einsum("tnd,snd->nts", q[..., :plain], kv[..., :plain])
        scores = scores + torch.einsum("tnd,sd->nts", q_turned, k_turned)
        scores = scores / math.sqrt(plain + turned)
        if c["rope_scaling"]:
            scores = scores * self.mscale(c["rope_scaling"]["mscale_all_dim"]) ** 2
        later = torch.ones(length, length).triu(1).bool()
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        out = torch.einsum("nts,snd->tnd", weights, kv[..., plain:])
        return self.linear(out.flatten(1), f"{at}.o_proj")

    def swiglu(self, x: Tensor, at: str) -> Tensor:
        gate = self.linear(x, f"{at}.gate_proj")
        return self.linear(gate * gate.sigmoid() * self.linear(x, f"{at}.up_proj"), f"{at}.down_proj")

    def experts(self, x: Tensor, at: str) -> Tensor:
        """Equations 12 to 16 and section 2.1.2's limit to groups, token by token."""
        c, rows = self.c, []
        bias, per_group = self.w[f"{at}.gate.e_score_correction_bias"], c["n_routed_experts"] // c["n_group"]
        for token in x:
            affinity = self.linear(token, f"{at}.gate").sigmoid()
            corrected = (affinity + bias).tolist()
            groups = [list(range(g * per_group, (g + 1) * per_group)) for g in range(c["n_group"])]
            groups.sort(key=lambda group: -sum(sorted((corrected[e] for e in group), reverse=True)[:2]))
            worth = [sum(sorted((corrected[e] for e in group), reverse=True)[:2]) for group in groups]
            if c["topk_group"] < c["n_group"]:
                self.margin = min(self.margin, worth[c["topk_group"] - 1] - worth[c["topk_group"]])
            allowed = sorted((e for g in groups[: c["topk_group"]] for e in g), key=lambda e: -corrected[e])
            chosen, left = allowed[: c["num_experts_per_tok"]], allowed[c["num_experts_per_tok"] :]
            if left:
                self.margin = min(self.margin, corrected[chosen[-1]] - corrected[left[0]])
            total = sum(affinity[e] for e in chosen)
            row = self.swiglu(token, f"{at}.shared_experts")
            for e in chosen:
                row = row + affinity[e] / total * c["routed_scaling_factor"] * self.swiglu(token, f"{at}.experts.{e}")
            rows.append(row)
        return torch.stack(rows)

    def block(self, x: Tensor, number: int) -> Tensor:
        at = f"model.layers.{number}"
        x = x + self.attention(self.norm(x, f"{at}.input_layernorm"), f"{at}.self_attn")
        y = self.norm(x, f"{at}.post_attention_layernorm")
        dense = number < self.c["first_k_dense_replace"]
        return x + (self.swiglu(y, f"{at}.mlp") if dense else self.experts(y, f"{at}.mlp"))

    def main(self, ids: Tensor) -> Tensor:
        x = self.w["model.embed_tokens.weight"][ids]
        for number in range(self.c["num_hidden_layers"]):
            x = self.block(x, number)
        return self.norm(x, "model.norm")

    def predict(self, h: Tensor, ids: Tensor) -> Tensor:
        """Equations 21 to 23: from h_1 .. h_(T-1) and t_2 .. t_T to the logits of t_3 .. t_(T+1).

        The concatenation has the published weights' order, the embedding first, and `h` their final norm.
        """
        at = f"model.layers.{self.c['num_hidden_layers']}"
        embedded = self.norm(self.w[f"{at}.embed_tokens.weight"][ids[1:]], f"{at}.enorm")
        mixed = torch.cat([embedded, self.norm(h[:-1], f"{at}.hnorm")], -1)
        x = self.block(self.linear(mixed, f"{at}.eh_proj"), self.c["num_hidden_layers"])
        return self.linear(self.norm(x, f"{at}.shared_head.norm"), f"{at}.shared_head.head")

    def head(self, h: Tensor) -> Tensor:
        tied = self.c["tie_word_embeddings"]
        return h @ self.w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the targets that count."""
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=golden.IGNORED, reduction="sum")


def sequences(inputs: Mapping[str, np.ndarray], labels: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Ids and labels of every sequence by itself, padding and neighbours taken away."""
    rows = []
    if "sequence_lengths" in inputs:
        stops = np.cumsum(inputs["sequence_lengths"])
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            rows.append((inputs["input_ids"][0, start:stop], labels[0, start:stop]))
    else:
        for row, ids in enumerate(inputs["input_ids"]):
            real = inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))[row] == 1
            rows.append((ids[real], labels[row][real]))
    return [(torch.from_numpy(ids.copy()), torch.from_numpy(target.copy())) for ids, target in rows]


def copies(config: Mapping[str, Any]) -> dict[str, str]:
    """The tensors that a folder holds twice: the copy in the prediction's layer, and what it is a copy of."""
    at = f"model.layers.{config['num_hidden_layers']}"
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return {f"{at}.embed_tokens.weight": "model.embed_tokens.weight", f"{at}.shared_head.head.weight": head}


def folder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published folder: the main model's, a block more, and what the prediction adds."""
    hidden = config["hidden_size"]
    shapes = published_shapes(config, build({**config, "num_hidden_layers": config["num_hidden_layers"] + 1}))
    at = f"model.layers.{config['num_hidden_layers']}"
    shapes |= {f"{at}.{norm}.weight": (hidden,) for norm in ("enorm", "hnorm", "shared_head.norm")}
    shapes[f"{at}.eh_proj.weight"] = (hidden, 2 * hidden)
    return shapes


def compare_with_transformers(
    config: Mapping[str, Any], folder: Path, reference: Reference, rows: list[tuple[Tensor, Tensor]]
) -> float:
    """Largest difference of logits, in float64, between the equations and transformers' own modules."""
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # transformers knows the prediction's weights by this pattern, which it has for 61 layers only.
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config['num_hidden_layers']}\."]
    drafting = MtpModel.from_pretrained(model, dtype=torch.float32)
    worst = 0.0
    with golden.double_precision(), torch.no_grad():
        wide = build(config, model).eval()
        drafting_wide = MtpModel(wide, 1).eval()
        drafting_wide.load_state_dict(drafting.state_dict())
        drafting_wide.config._attn_implementation = "eager"
        drafting_wide.config._experts_implementation = "eager"
        for ids, _ in rows:
            out = wide(input_ids=ids[None], output_hidden_states=True, use_cache=False)
            h = reference.main(ids)
            positions = torch.arange(len(ids) - 1)[None]
            hidden = drafting_wide.forward_layer(
                0, out.hidden_states[-1][:, :-1], positions, None, input_ids=ids[None, 1:]
            )
            ours = reference.predict(h, ids)
            worst = max(worst, float((out.logits[0] - reference.head(h)).abs().max()))
            worst = max(worst, float((drafting_wide._project_to_logits(hidden)[0] - ours).abs().max()))
    return worst


def run(config: Mapping[str, Any], w: Mapping[str, np.ndarray], rows: list[Any], dtype: torch.dtype) -> tuple[Any, ...]:
    """Logits of the sequences, both losses, and the gradients of their sum, copies counted with what they copy."""
    tensors = {name: torch.from_numpy(value).to(dtype).requires_grad_("_bias" not in name) for name, value in w.items()}
    for copy, original in copies(config).items():
        tensors[copy] = tensors[original]
    reference = Reference(config, tensors)
    tokens = sum(int((labels[1:] != golden.IGNORED).sum()) for _, labels in rows)
    logits, main, ahead = [], torch.zeros((), dtype=dtype), torch.zeros((), dtype=dtype)
    for ids, labels in rows:
        h = reference.main(ids)
        logits.append(reference.head(h).detach())
        main = main + cross_entropy(reference.head(h)[:-1], labels[1:]) / tokens
        ahead = ahead + cross_entropy(reference.predict(h, ids)[:-1], labels[2:]) / tokens
    (main + config["num_nextn_predict_lambda"] * ahead).backward()
    grads = {name: tensors[name].grad.numpy() for name in w if "_bias" not in name}
    short = [name for name, grad in grads.items() if not np.abs(grad).max() > 0]
    if short:
        raise SystemExit(f"no gradient reached {short}")
    return reference, logits, main.detach().numpy(), ahead.detach().numpy(), grads


def make(folder: Path, case: Case, seed: int) -> None:
    """Write one folder, or stop with the reason why the case would prove nothing."""
    config = case.published(BASE)
    w = make_weights(folder_shapes(config), seed)
    _, inputs, labels = make_inputs(case, config["vocab_size"], seed)
    rows = sequences(inputs, labels)
    stored = {**w, **{copy: w[original].copy() for copy, original in copies(config).items()}}
    golden.write_model_folder(folder, config, stored)
    reference, logits, main, ahead, grads = run(config, w, rows, torch.float64)
    single = run(config, w, rows, torch.float32)
    noise = max(float(np.abs(grads[name] - single[-1][name]).max()) for name in grads)
    if noise > golden.NOISE:
        raise SystemExit(f"{folder.name}: float32 is off by {noise:.1e}")
    if reference.margin < MARGIN:
        raise SystemExit(f"{folder.name}: seed {seed} leaves a choice of experts to {reference.margin:.1e}")
    worst = compare_with_transformers(config, folder, reference, rows)
    if worst > 1e-7:
        raise SystemExit(f"{folder.name}: transformers' logits differ by {worst:.1e}")
    tensors = {"loss": main.reshape(()), "prediction_loss": ahead.reshape(())}
    tensors |= {f"grad.{name}": grad for name, grad in grads.items()}
    out = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    save_file({**out, **inputs, "labels": labels}, folder / "prediction.safetensors", metadata={"format": "pt"})
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    print(
        f"{folder.name:20s} {size:4.0f} KB  losses {float(main):.4f} {float(ahead):.4f}  float32 noise {noise:.1e}"
        f"  clearest by {reference.margin:.1e}  transformers differs by {worst:.1e}"
    )


if __name__ == "__main__":
    for name, case in CASES.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(HERE / name, case, SEEDS[name])
