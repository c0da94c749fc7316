"""Greedy and beam search by Hugging Face transformers, of tiny random models that say many things.

    /path/to/oracle/python tests/generate/golden/make_decoding_golden.py [FAMILY ...]
    /path/to/oracle/python tests/generate/golden/make_decoding_golden.py --search FAMILY FIRST_SEED

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5. Each family's folder has the
model as published ones are (`config.json`, `model.safetensors`); `decoding.json` with the prompts, the seed, the id
that ends a text, and for each case its options, its smallest margin and the scores of its beams; and
`decoding.safetensors` with the new tokens of each case, int16 [rows (x sequences), tokens], -1 after the end, the end
itself included. Four prompts of unequal length are one batch, filled up on the left.

What is compared token for token must not hang on rounding: all runs in float64 and in float32 have to agree, and in
float64 what was chosen has to be better than what was not by `MARGIN` (log-probabilities), an expert by
`ROUTER_MARGIN` (scores). A seed that leaves something closer is refused; `--search` looks for the next that does not.

The id of the filling stands in every prompt: transformers counts filling as said, when it penalises repetition.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

import golden  # noqa: E402
from golden_transformers import load, rebuild  # noqa: E402


def by_path(path: Path) -> Any:
    """A script of a plugin, as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parents[2].name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


deepseek = by_path(REPOSITORY / "plugins/deepseek_v3/tests/golden/make_golden.py")

VOCAB, PAD, NEW, FEW, BEAMS = 150, 3, 256, 48, 4
LENGTHS = (4, 11, 7, 2)
MARGIN, ROUTER_MARGIN = 1e-4, 5e-6
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32", "use_cache": True}
LLAMA = {
    "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 320,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False, "initializer_range": 0.02, "attention_dropout": 0.0,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **COMMON, **LLAMA, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 10000.0,
    },
    "qwen2": {
        **COMMON, **LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1000000.0,
        "max_window_layers": 0, "sliding_window": 8, "use_sliding_window": False,
    },
    "gpt2": {
        **COMMON, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "n_ctx": 320,
        "n_embd": 32, "n_head": 4, "n_inner": 64, "n_layer": 2, "n_positions": 320, "initializer_range": 0.02,
    },
    "bloom": {
        **COMMON, "architectures": ["BloomForCausalLM"], "model_type": "bloom", "hidden_size": 32, "n_head": 4,
        "n_layer": 3, "layer_norm_epsilon": 1e-05, "seq_length": 320, "attention_dropout": 0.0, "hidden_dropout": 0.0,
        "apply_residual_connection_post_layernorm": False, "initializer_range": 0.02, "pad_token_id": PAD,
        "attention_softmax_in_fp32": True, "masked_softmax_fusion": True, "offset_alibi": 100, "pretraining_tp": 1,
        "skip_bias_add": True, "skip_bias_add_qkv": False, "slow_but_exact": False, "n_inner": None, "unk_token_id": 0,
    },
    "opt": {
        **COMMON, "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 32, "ffn_dim": 64,
        "max_position_embeddings": 320, "num_attention_heads": 4, "num_hidden_layers": 2, "activation_function": "relu",
        "do_layer_norm_before": True, "word_embed_proj_dim": 32, "_remove_final_layer_norm": False, "dropout": 0.1,
        "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0, "init_std": 0.02, "pad_token_id": 0,
    },
    "deepseek_v3": {
        **deepseek.BASE, **COMMON, "hidden_size": 32, "intermediate_size": 40, "max_position_embeddings": 320,
        "num_attention_heads": 4, "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    },
}  # fmt: skip
SEEDS = {"llama": 4, "qwen2": 3, "gpt2": 1, "bloom": 15, "opt": 2, "deepseek_v3": 11}


def cases(eos: int, banned: list[list[int]]) -> dict[str, dict[str, Any]]:
    """What `generate` is told in each case."""
    beams: dict[str, Any] = {"num_beams": BEAMS, "num_return_sequences": 2}
    found: dict[str, dict[str, Any]] = {
        "greedy": {"max_new_tokens": NEW},
        "greedy_eos": {"eos_token_id": eos},
        "greedy_repetition": {"repetition_penalty": 1.3},
        "greedy_min_new": {"eos_token_id": eos, "min_new_tokens": 30},
        "greedy_bad_words": {"bad_words_ids": banned},
        "beam": {**beams, "max_new_tokens": NEW, "length_penalty": 0.0},
        "beam_rules": {
            **beams, "eos_token_id": eos, "length_penalty": 1.0, "repetition_penalty": 1.2, "min_new_tokens": 6,
            "bad_words_ids": banned,
        },
        "beam_two_ends": {**beams, "eos_token_id": [eos, banned[0][0]], "length_penalty": 1.0},
    }  # fmt: skip
    for penalty in (0.0, 1.0, 2.0):
        for early in (True, False, "never"):
            name = f"beam_eos_{penalty:.0f}_{str(early).lower()}"
            found[name] = {**beams, "eos_token_id": eos, "length_penalty": penalty, "early_stopping": early}
    return {name: {"max_new_tokens": FEW, **options} for name, options in found.items()}


@dataclass
class Margins:
    """Notes how close the decisions of a run are, by standing before the functions of transformers that make them.

    Scores of finished beams are log-probabilities over a power of their length: `scale` [B, 1] is that of each row's
    shortest, by which differences of scores are those of log-probabilities again, as rounding is theirs.
    """

    smallest: float = float("inf")
    scale: Any = None

    def see(self, gaps: torch.Tensor) -> None:
        if gaps.numel():
            self.smallest = min(self.smallest, float(gaps.min()))

    def greedy(self, scores: torch.Tensor) -> None:
        best = scores.topk(2, dim=-1)[0]
        self.see(best[:, 0] - best[:, 1])

    def beam(self, scores: torch.Tensor, eos: list[int], beams: int) -> None:
        """`scores` [B, beams x V]: what goes on (the best without an end), and whether an end is of the best."""
        ranked, order = scores.topk(beams * (len(eos) + 1) + beams + 1, dim=-1)
        ends = torch.isin(order % (scores.shape[-1] // beams), torch.tensor(eos or [-1]))
        for values, ended in zip(ranked, ends, strict=True):
            going = values[~ended]
            self.see(going[beams - 1] - going[beams])
            if ended[: beams + 1].any():
                self.see(values[beams - 1] - values[beams])


class Watched:
    """A model's `generate` with its margins."""

    def __init__(self, model: Any) -> None:
        self.model, self.kind = model, type(model)

    def run(self, ids: torch.Tensor, mask: torch.Tensor, options: Mapping[str, Any]) -> tuple[Any, Margins]:
        margins, beams = Margins(), options.get("num_beams", 1)
        ends = options.get("eos_token_id", [])
        eos = ends if isinstance(ends, list) else [ends]
        top, early = self.kind._get_top_k_continuations, self.kind._check_early_stop_heuristic
        update = self.kind._update_finished_beams

        def watched_top(model: Any, **given: Any) -> Any:
            margins.beam(given["accumulated_log_probs"], eos, beams)
            return top(model, **given)

        def watched_update(model: Any, **given: Any) -> Any:
            made = update(model, **given)
            penalty, length = given["length_penalty"], given["cur_len"] + 1 - given["decoder_prompt_len"]
            lengths = (made[2] >= 0).sum(-1).masked_fill(~made[3], length)
            margins.scale = lengths.min(-1, keepdim=True)[0].double() ** penalty
            scores = torch.cat([given["beam_scores"], made[1]], -1).sort(-1, descending=True)[0]
            gaps = scores[:, :-1] - scores[:, 1:]
            margins.see((gaps * margins.scale)[(gaps > 0) & (scores[:, 1:] > -1e8)])
            # what did not get in, against the worst that is in
            hits = given["next_token_hits_stopping_criteria"] & given["top_num_beam_mask"][None]
            hits &= given["is_early_stop_heuristic_unsatisfied"]
            if given["early_stopping"] is True:
                hits &= ~given["is_sent_finished"].all(-1, keepdim=True)
            gaps = (given["topk_log_probs"] / length**penalty - made[1][:, -1:]).abs()
            margins.see((gaps * margins.scale)[hits & (gaps > 0) & (gaps < 1e8)])
            return made

        def watched_early(**given: Any) -> Any:
            length = given["cur_len"] - given["decoder_prompt_len"]
            if given["early_stopping"] == "never" and given["length_penalty"] > 0:
                length = given["max_length"] - given["decoder_prompt_len"]
            best = given["running_beam_scores"][:, 0] / length ** given["length_penalty"]
            undecided = given["is_early_stop_heuristic_unsatisfied"][:, 0] & given["is_sent_finished"].all(-1)
            margins.see(((best - given["beam_scores"].min(-1)[0]).abs() * margins.scale[:, 0])[undecided])
            return early(**given)

        self.kind._get_top_k_continuations = watched_top
        self.kind._check_early_stop_heuristic = staticmethod(watched_early)
        self.kind._update_finished_beams = watched_update
        try:
            with torch.no_grad():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=PAD, output_scores=True,
                    return_dict_in_generate=True, **options,
                )  # fmt: skip
        finally:
            for name, function in (("_get_top_k_continuations", top), ("_update_finished_beams", update)):
                setattr(self.kind, name, function)
            self.kind._check_early_stop_heuristic = staticmethod(early)
        if beams == 1:
            alive = torch.ones(len(ids), dtype=torch.bool)
            for scores, chosen in zip(out.scores, out.sequences[:, ids.shape[1] :].T, strict=True):
                margins.greedy(scores[alive])
                alive &= ~torch.isin(chosen, torch.tensor(eos or [-1]))
        return out, margins


def prompts(seed: int) -> list[list[int]]:
    random = np.random.default_rng([seed, 7])
    found = [random.integers(4, VOCAB, length).tolist() for length in LENGTHS]
    for ids in found:
        ids[0] = PAD
    return found


def new_tokens(sequences: torch.Tensor, prompt: int, eos: list[int], most: int) -> np.ndarray:
    """[N, most], -1 after the end."""
    found = np.full((len(sequences), most), -1, np.int16)
    for row, ids in zip(found, sequences[:, prompt:].tolist(), strict=True):
        ends = [at for at, token in enumerate(ids) if token in eos]
        ids = ids[: ends[0] + 1] if ends else ids
        row[: len(ids)] = ids
    return found


def make_weights(family: str, config: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Random weights of which logits are several wide, and the next token is not the last one again."""
    if family == "deepseek_v3":
        weights = deepseek.make_weights(deepseek.published_shapes(config, deepseek.build(config)), seed)
    else:
        values = transformers.AutoConfig.for_model(**{k: v for k, v in config.items() if v is not None})
        empty = transformers.AutoModelForCausalLM.from_config(values)
        weights = golden.random_weights({name: p.shape for name, p in empty.named_parameters()}, seed)
    lasts = ("model.norm.weight", "ln_f.weight", "decoder.final_layer_norm.weight")
    for name, value in weights.items():
        random = np.random.default_rng([seed, 11])
        if name.endswith(lasts):  # of both signs: with tied embeddings a token would be the likeliest to follow itself
            weights[name] = (np.sign(random.standard_normal(value.shape)) * 1.5).astype(np.float32)
        elif name == "lm_head.weight":
            weights[name] = value * np.float32(5)
        elif "wpe" in name or "embed_positions" in name:  # as large as tokens: else one follows from the last alone
            weights[name] = value * np.float32(6)
        elif "embed" in name or "wte" in name:
            weights[name] = value * np.float32(1 if "lm_head.weight" in weights else 4)
        elif "attention.dense.weight" in name or "dense_4h_to_h" in name:  # Bloom has no positions that could do it
            weights[name] = value * np.float32(6)
        elif "query_key_value.weight" in name:
            weights[name] = value * np.float32(4)
        elif value.ndim > 1 and "mlp.gate.weight" not in name:
            weights[name] = value * np.float32(1.6)
    return weights


class Refused(Exception):
    """Why a seed proves nothing."""


def same(wide: Any, narrow: Any) -> bool:
    return wide.sequences.shape == narrow.sequences.shape and bool((wide.sequences == narrow.sequences).all())


def chosen_end(plain: np.ndarray) -> int:
    """An id that some rows say soon and others do not."""
    firsts = {}
    for token in set(plain.flatten().tolist()) - {PAD}:
        at = [int(np.flatnonzero(row == token)[0]) if (row == token).any() else NEW for row in plain]
        soon = [place for place in at if 8 <= place < FEW - 8]
        if min(at) >= 8 and 1 <= len(soon) < len(at):
            firsts[token] = len(soon)
    if not firsts:
        raise Refused("no token ends some rows and not others")
    return min(firsts, key=lambda token: (-firsts[token], token))


def make(family: str, seed: int) -> None:
    config, folder = CONFIGS[family], HERE / family
    golden.write_model_folder(folder, config, make_weights(family, config, seed))
    narrow = load(folder)
    if family == "deepseek_v3":
        narrow.config._experts_implementation = "eager"
    rows = prompts(seed)
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    empty = transformers.GenerationConfig()
    with golden.double_precision():
        wide = deepseek.build(config, narrow) if family == "deepseek_v3" else rebuild(narrow, config)
        wide.eval()
    choices = deepseek.Choices(wide, config) if family == "deepseek_v3" else None
    narrow.generation_config = wide.generation_config = empty
    known: dict[str, dict[str, Any]] = {"greedy": {"max_new_tokens": NEW}}
    found, report, done = {}, {}, set()
    while set(known) - done:
        name = next(name for name in known if name not in done)
        options = known[name]
        done.add(name)
        with golden.double_precision():
            exact, margins = Watched(wide).run(ids, mask, options)
        margins.smallest = round(margins.smallest, 7)
        if margins.smallest < MARGIN:
            raise Refused(f"{name} has a margin of {margins.smallest:.1e}")
        if choices is not None and choices.margin < ROUTER_MARGIN:
            raise Refused(f"{name} leaves an expert to {choices.margin:.1e}")
        single, _ = Watched(narrow).run(ids, mask, options)
        if not same(exact, single):
            raise Refused(f"{name} is another in float32")
        ends = options.get("eos_token_id", [])
        ends = ends if isinstance(ends, list) else [ends]
        found[name] = new_tokens(exact.sequences, longest, ends, options["max_new_tokens"])
        report[name] = {"options": options, "margin": margins.smallest}
        if "num_beams" in options:
            report[name]["scores"] = [round(score, 9) for score in exact.sequences_scores.tolist()]
        if name == "greedy":
            said = [len(set(row.tolist())) for row in found[name]]
            if min(said) < 20:
                raise Refused(f"a row says {min(said)} different tokens")
            eos = chosen_end(found[name])
            soon = [token for token in found[name][:, 3].tolist() if token not in (eos, PAD)]
            banned = [[soon[0]], found[name][1, 5:7].tolist(), found[name][2, 9:12].tolist()]
            known = cases(eos, banned)
    check(found)
    save_file(found, folder / "decoding.safetensors", metadata={"format": "np"})
    more = {} if choices is None else {"router_margin": round(choices.margin, 7)}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    described = {"seed": seed, "pad": PAD, "eos": eos, "prompts": rows, "versions": versions, **more, "cases": report}
    (folder / "decoding.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    smallest = min(report, key=lambda name: report[name]["margin"])
    print(f"{family} seed {seed}: {size:.0f} KB, smallest margin {report[smallest]['margin']:.1e} ({smallest}) {more}")


def check(found: Mapping[str, np.ndarray]) -> None:
    """Each case has to be another than the plain one, and ends have to end something."""
    few = found["greedy"][:, :FEW]
    for name in ("greedy_eos", "greedy_repetition", "greedy_min_new", "greedy_bad_words"):
        if (found[name] == few).all():
            raise Refused(f"{name} changes nothing")
    beams = {name: tokens for name, tokens in found.items() if name.startswith("beam_eos")}
    if len({tokens.tobytes() for tokens in beams.values()}) < 4:
        raise Refused("the ways to stop give the same")
    ended = sum(int((tokens == -1).any(-1).sum()) for tokens in beams.values())
    if not 8 <= ended < 9 * 8:
        raise Refused(f"{ended} beams of 72 end before their last token")
    if (found["beam"][::2] == found["greedy"]).all():
        raise Refused("beam search finds what greedy search finds")


def search(family: str, first: int) -> None:
    for seed in range(first, first + 400):
        try:
            make(family, seed)
        except Refused as why:
            print(f"{family} seed {seed}: {why}", flush=True)
            continue
        return


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--search"]:
        search(sys.argv[2], int(sys.argv[3]))
    else:
        for chosen in sys.argv[1:] or CONFIGS:
            make(chosen, SEEDS[chosen])
