"""The other side of `decode_speed.py`: PyTorch + transformers, in an environment of its own.

`python benchmarks/torch_decode.py FOLDER` makes a random Llama, saves it in FOLDER for the other stack, says so in one
JSON line, and then obeys lines on its standard input: `decode B` continues B prompts greedily (so do `eager B` and
`static B`, for which the other stack has ways of its own), `prefill S` reads one prompt of S tokens. Each answers
`{"seconds": ..., "tokens": ..., "ids": ...}`. The prompts come from numpy, so that the other stack has the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch
import transformers

PROMPT, NEW, VOCAB, SEED = 32, 64, 32000, 42


def build() -> torch.nn.Module:
    """A random Llama of 58.1 million parameters in float32 with fused (sdpa) attention."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1376,
        vocab_size=VOCAB,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    # nothing ends a text early: both stacks make every token
    model.generation_config.eos_token_id = None
    return model


def main() -> None:
    """Build, save, obey."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    model = build()
    model.save_pretrained(options.folder)

    def prompts(rows: int, length: int) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(SEED).integers(3, VOCAB, (rows, length), dtype=np.int64))

    def decode(rows: int) -> dict[str, object]:
        ids = prompts(rows, PROMPT)
        start = time.perf_counter()
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": rows * NEW, "ids": found[:, PROMPT:].tolist()}

    def prefill(length: int) -> dict[str, object]:
        ids = prompts(1, length)
        start = time.perf_counter()
        logits = model(ids, use_cache=True, logits_to_keep=1).logits
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": length, "ids": [[int(logits[0, -1].argmax())]]}

    ways = {"decode": decode, "eager": decode, "static": decode, "prefill": prefill}
    stack = f"torch {torch.__version__}, transformers {transformers.__version__}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.inference_mode():
        print(json.dumps({"ready": True, "stack": stack, "parameters": parameters}), flush=True)
        for line in sys.stdin:
            what, number = line.split()
            print(json.dumps(ways[what](int(number))), flush=True)


if __name__ == "__main__":
    main()
