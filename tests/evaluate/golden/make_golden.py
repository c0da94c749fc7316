"""Make `tiny`, a random Qwen2 with a tokenizer, and `numbers.json`, what transformers and lm-eval compute with it.

    /path/to/oracle/bin/python make_golden.py

Needs torch==2.13.0, transformers==5.23.0, accelerate==1.15.0 and lm-eval==0.4.13. Nothing here is computed by zoo.
Perplexity is the loop of Hugging Face's page "Perplexity of fixed-length models", summed instead of averaged over
windows, because its windows are not all as long.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).parent
END, CONTEXT = "<|endoftext|>", 64
GENESIS = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness "
    "was upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there "
    "be light: and there was light. And God saw the light, that it was good: and God divided the light from the "
    "darkness. And God called the light Day, and the darkness he called Night."
)
POEM = "床前明月光,疑是地上霜。举头望明月,低头思故乡。"
TEXTS = [GENESIS, POEM, "light"]
PAIRS = [
    ("In the beginning God created the", " heaven"),
    ("In the beginning God created the", " earth"),
    ("In the beginning God created the ", "heaven and the earth"),
    ("床前明月", "光"),
    ("床前明月", "霜"),
    ("In the beginning", "R"),  # what greedy decoding gives
    ("", "And God said"),
    (GENESIS, " And the evening and the morning were the first day."),
]
PROMPTS = ["In the beginning", POEM, GENESIS]
STOPS = {"until": ["!", " bend"], "max_gen_toks": 12, "do_sample": False}


def make_model(folder: Path) -> None:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [GENESIS, POEM], trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.4,
        eos_token_id=raw.token_to_id(END), bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def perplexity(model: Qwen2ForCausalLM, ids: list[int], max_length: int, stride: int) -> float:
    total, counted, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            total, counted = total + float(loss) * scored, counted + scored
        before = end
        if end == len(ids):
            break
    return float(torch.tensor(total / counted, dtype=torch.float64).exp())


def main() -> None:
    folder = HERE / "tiny"
    make_model(folder)
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    end = model.tokenizer.eos_token_id
    ids = [end, *model.tok_encode(GENESIS)]
    instances = {
        kind: [Instance(kind, {}, arguments, number) for number, arguments in enumerate(asked)]
        for kind, asked in (
            ("loglikelihood", PAIRS),
            ("loglikelihood_rolling", [(text,) for text in TEXTS]),
            ("generate_until", [(prompt, STOPS) for prompt in PROMPTS]),
        )
    }
    os.chdir(HERE)
    tasks = TaskManager(include_path=str(HERE / "tasks"), include_defaults=False)
    results = simple_evaluate(model, tasks=["golden_choice", "golden_rolling"], task_manager=tasks, num_fewshot=0)
    numbers = {
        "perplexity": [
            {"max_length": length, "stride": stride, "perplexity": perplexity(model.model, ids, length, stride)}
            for length, stride in ((33, 32), (33, 8), (17, 1), (65, 64))
        ],
        "loglikelihood": [
            [*pair, *answer]
            for pair, answer in zip(PAIRS, model.loglikelihood(instances["loglikelihood"]), strict=True)
        ],
        "loglikelihood_rolling": [
            list(pair)
            for pair in zip(TEXTS, model.loglikelihood_rolling(instances["loglikelihood_rolling"]), strict=True)
        ],
        "generate_until": [
            list(pair) for pair in zip(PROMPTS, model.generate_until(instances["generate_until"]), strict=True)
        ],
        "stops": STOPS,
        "tasks": {
            name: {key: value for key, value in found.items() if isinstance(value, float) and "stderr" not in key}
            for name, found in results["results"].items()
        },
        "text": GENESIS,
    }
    (HERE / "numbers.json").write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
