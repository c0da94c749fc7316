"""What TRL on transformers computes of preference losses; PaddleFormers' and an older TRL's formulas where it has none.

    /path/to/oracle/python tests/peft/golden_dpo/make_golden.py OLD_TRL PADDLEFORMERS

Needs torch==2.13.0, transformers==5.23.0, trl==1.16.0, peft==0.21.2 and paddlepaddle==3.3.1 (CPU), and the folders
that `pip install --no-deps --target OLD_TRL trl==0.8.6` and `pip install --no-deps --target PADDLEFORMERS
paddleformers==1.2.0` fill, of which a function each is read.

The policy is the tiny Llama of the plugin's golden folder, the reference is it with noise. `golden.safetensors` holds
the batch as zoo gives it to a model (chosen answers, then rejected ones: `input_ids`, `labels`, `attention_mask`, int64
[2P, S]), both models' `policy` and `reference` log-probabilities of answers, float32 [2P], and of each case CASE.loss
and CASE.grad.NAME of some weights, for `sigmoid` of all, of which `told` is what TRL logs, and `sigmoid.losses` [STEPS]
of AdamW training (learning rate 1e-3, no weight decay). `lora.*` are of the adapters in ../golden/llama, whose base is
the reference. All computed in float64 by the references and rounded to float32. Writes the same bytes again.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import types
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import tokenizers
import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from safetensors.numpy import save_file
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
BASE, ADAPTER = REPOSITORY / "plugins/llama/tests/golden/llama3_gqa", HERE.parent / "golden/llama"
sys.path.insert(0, str(REPOSITORY / "tools"))

from golden import double_precision  # noqa: E402

STEPS, LEARNING_RATE, NOISE = 5, 1e-3, 0.02
SOME = ("model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight")
PROMPTS = ([5, 9, 13, 2, 7], [3, 31, 8], [21, 4, 4, 17])
CHOSEN = ([11, 40, 6, 2], [17, 22, 60, 33, 2], [50, 2])
REJECTED = ([12, 41, 2], [17, 9, 2], [51, 28, 19, 44, 36, 2])

TOLD = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")

TRL_TYPES: dict[str, dict[str, Any]] = {
    "sigmoid": {"beta": 0.1},
    "hinge": {"beta": 0.3},
    "ipo": {"beta": 0.2},
    "sppo_hard": {"beta": 0.1},
    "nca_pair": {"beta": 0.1},
}


def method(file: Path, name: str, more: Mapping[str, Any]) -> Callable[..., Any]:
    """A method of a class in a file that cannot be imported here, as a function."""
    tree = ast.parse(file.read_text())
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    assert len(found) == 1, (file, name, len(found))
    found[0].returns = None
    for argument in found[0].args.args:
        argument.annotation = None
    scope = dict(more)
    exec(compile(ast.Module([found[0]], []), str(file), "exec"), scope)
    return scope[name]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = {str(number): number for number in range(67)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="2", pad_token="1", unk_token="0")


def base_model() -> Any:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    return loaded.double()


def noisy() -> Any:
    model = base_model()
    for key, tensor in model.named_parameters():
        rng = np.random.default_rng([1, zlib.crc32(key.encode())])
        tensor.data += torch.tensor(rng.standard_normal(tuple(tensor.shape)) * NOISE)
    return model


def trainer(model: Any, ref_model: Any, folder: str, **options: Any) -> DPOTrainer:
    """TRL's trainer, of which the loss alone is used."""
    rows = [
        {"prompt": " ".join(map(str, p)), "chosen": " ".join(map(str, c)), "rejected": " ".join(map(str, r))}
        for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    arguments = DPOConfig(
        output_dir=folder, use_cpu=True, report_to=[], bf16=False, max_length=None, gradient_checkpointing=False,
        per_device_train_batch_size=len(rows), **options,
    )  # fmt: skip
    return DPOTrainer(model, ref_model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer())


def pairs() -> dict[str, torch.Tensor]:
    """The batch as TRL has it: chosen, then rejected, filled up on the right."""
    whole = [(p, a) for answers in (CHOSEN, REJECTED) for p, a in zip(PROMPTS, answers, strict=True)]
    width = max(len(prompt) + len(answer) for prompt, answer in whole)
    ids, mask, answered = (torch.zeros(len(whole), width, dtype=torch.long) for _ in range(3))
    ids += 1
    for row, (prompt, answer) in enumerate(whole):
        ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[row, : len(prompt) + len(answer)] = 1
        answered[row, len(prompt) : len(prompt) + len(answer)] = 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": answered}


def log_probs(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each answer, and of its tokens on average."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    found = ORPOTrainer.get_batch_logps
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return found(logits, labels), found(logits, labels, average_log_prob=True)


def gradients(model: Any, names: Any) -> dict[str, np.ndarray]:
    return {name: t.grad.numpy().copy() for name, t in model.named_parameters() if t.requires_grad and names(name)}


class Formulas:
    """Losses as functions of log-probabilities, each from another package."""

    def __init__(self, old_trl: Path, paddleformers: Path) -> None:
        here = {"torch": torch, "F": torch.nn.functional}
        self._trl = method(old_trl / "trl/trainer/dpo_trainer.py", "dpo_loss", here)
        there = {"paddle": paddle, "F": paddle.nn.functional}
        self._paddleformers = method(paddleformers / "paddleformers/transformers/dpo_criterion.py", "dpo_loss", there)

    def trl(self, logps: list[torch.Tensor], **options: Any) -> torch.Tensor:
        own = {"reference_free": False, "label_smoothing": 0.0, "beta": 0.1, "loss_type": "sigmoid", **options}
        device = types.SimpleNamespace(device="cpu")
        return self._trl(types.SimpleNamespace(accelerator=device, **own), *logps)[0].mean()

    def paddleformers(self, logps: list[torch.Tensor], **options: Any) -> torch.Tensor:
        """PaddleFormers' value, with its gradients towards the policy."""
        theirs = [paddle.to_tensor(x.detach().numpy(), stop_gradient=number > 1) for number, x in enumerate(logps)]
        config = types.SimpleNamespace(**{"beta": 0.1, "label_smoothing": 0.0, "pref_loss_ratio": 1.0, **options})
        loss = self._paddleformers(types.SimpleNamespace(dpo_config=config), *theirs)
        loss.backward()
        slopes = [torch.tensor(x.grad.numpy()) for x in theirs[:2]]
        linear = sum((slope * x).sum() for slope, x in zip(slopes, logps[:2], strict=True))
        return linear - linear.detach() + float(loss)

    def simpo(self, logps: list[torch.Tensor], beta: float, gamma: float, label_smoothing: float) -> torch.Tensor:
        own = types.SimpleNamespace(
            alpha=0.0, beta=beta, simpo_gamma=gamma, label_smoothing=label_smoothing, loss_type="simpo",
            accelerator=types.SimpleNamespace(device="cpu"),
        )  # fmt: skip
        return CPOTrainer.cpo_loss(own, *logps[:2])[0].mean()

    def orpo(self, logps: list[torch.Tensor], ratio: float, nll: torch.Tensor) -> torch.Tensor:
        own = types.SimpleNamespace(beta=ratio, accelerator=types.SimpleNamespace(device="cpu"))
        return nll - ORPOTrainer.odds_ratio_loss(own, *logps[:2])[0].mean()


def by_formula(formulas: Formulas, policy: Any, reference: Any, nll: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cases that TRL's trainer of today has not; `policy` and `reference` are sums and means of log-probabilities."""
    sums, means = ([*policy[n].chunk(2), *reference[n].chunk(2)] for n in (0, 1))
    return {
        "smoothed": formulas.trl(sums, label_smoothing=0.2),
        "free": formulas.trl(sums, reference_free=True, beta=0.3),
        "kto_pair": formulas.trl(sums, loss_type="kto_pair"),
        "dpop": formulas.paddleformers(sums, loss_type="dpop", dpop_lambda=5.0),
        "simpo": formulas.simpo(means, 2.0, 1.2, 0.1),
        "orpo": formulas.orpo(means, 0.4, nll),
    }


def main(old_trl: Path, paddleformers: Path) -> None:
    batch, found = pairs(), dict[str, np.ndarray]()
    chosen = len(PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        model, reference = base_model(), noisy()
        made = trainer(model, reference, folder, loss_type=["sigmoid"], beta=0.1)
        adapted = PeftModel.from_pretrained(base_model(), ADAPTER, is_trainable=True).double()
        with_adapter = trainer(adapted, None, folder, loss_type=["sigmoid"], beta=0.1)
    with double_precision():
        model.eval()
        with torch.no_grad():
            fixed = log_probs(reference, batch)
            policy = log_probs(model, batch)
        found |= {"policy": policy[0].numpy(), "reference": fixed[0].numpy()}
        cases = {**TRL_TYPES, "sigmoid_sft": {"beta": 0.1}}
        for name, options in cases.items():
            kinds = name.split("_sft")[0]
            made.loss_types, made.loss_weights = ([kinds], [1.0]) if kinds == name else ([kinds, "sft"], [0.7, 0.3])
            made.beta = options["beta"]
            made._metrics["eval"].clear()
            model.zero_grad()
            loss = made._compute_loss(model, batch, False)
            loss.backward()
            found[f"{name}.loss"] = loss.detach().numpy()
            every = name == "sigmoid"
            grads = gradients(model, lambda key, every=every: every or key in SOME)
            found |= {f"{name}.grad.{key}": grad for key, grad in grads.items()}
            if every:
                told = {key: values[0] for key, values in made._metrics["eval"].items()}
                found["told"] = np.array([told[key] for key in TOLD])
        names = ("smoothed", "free", "kto_pair", "dpop", "simpo", "orpo")
        for name in names:
            model.zero_grad()
            policy = log_probs(model, batch)
            nll = -policy[0][:chosen].sum() / batch["completion_mask"][:chosen].sum()
            loss = by_formula(Formulas(old_trl, paddleformers), policy, fixed, nll)[name]
            loss.backward()
            found[f"{name}.loss"] = loss.detach().numpy()
            found |= {f"{name}.grad.{key}": grad for key, grad in gradients(model, SOME.__contains__).items()}
        with torch.no_grad(), adapted.disable_adapter():
            base = log_probs(adapted, batch)[0]
        given = {**batch, "ref_chosen_logps": base[:chosen], "ref_rejected_logps": base[chosen:]}
        with_adapter.precompute_ref_logps = True
        adapted.eval()
        adapted.zero_grad()
        loss = with_adapter._compute_loss(adapted, given, False)
        loss.backward()
        found |= {"lora.loss": loss.detach().numpy(), "lora.reference": base.numpy()}
        grads = gradients(adapted, lambda key: ".default." in key)
        found |= {f"lora.grad.{key.replace('.default', '')}": grad for key, grad in grads.items()}
        made.loss_types, made.loss_weights, made.beta = ["sigmoid"], [1.0], 0.1
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = made._compute_loss(model, batch, False)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found["sigmoid.losses"] = np.array(losses)
    floats = {key: values.astype(np.float32) for key, values in found.items()}
    ids, answered = batch["input_ids"].numpy(), batch["completion_mask"].numpy()
    floats |= {
        "input_ids": ids[:, :-1],
        "labels": np.where(answered == 1, ids, -100)[:, 1:],
        "attention_mask": batch["attention_mask"].numpy()[:, :-1],
    }
    save_file({key: np.ascontiguousarray(values) for key, values in floats.items()}, HERE / "golden.safetensors")
    print({key: float(values) for key, values in floats.items() if key.endswith("loss")}, losses)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
