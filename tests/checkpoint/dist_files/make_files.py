"""Write the small folders that tests/checkpoint/test_dist_ckpt.py reads: `python make_files.py`, with Paddle 3.3.

It starts four processes that save as PaddleNLP's auto-parallel training does: parameters cut over data (rows of the
mesh) and tensor (its columns) parallel ranks, in Paddle's own format and in safetensors, and flat ranges of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent
HIDDEN, FFN, VOCAB = 8, 12, 10
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_LAYER = "llama.layers.0"

# name -> shape, and the dim that each axis of the mesh (data, tensor) cuts; one cut is over all four ranks in a row
LLAMA = {
    "llama.embed_tokens.weight": ((VOCAB, HIDDEN), (None, 0)),
    f"{_LAYER}.self_attn.q_proj.weight": ((HIDDEN, HIDDEN), (None, 1)),
    f"{_LAYER}.self_attn.k_proj.weight": ((HIDDEN, HIDDEN), (0, 1)),
    f"{_LAYER}.self_attn.v_proj.weight": ((HIDDEN, HIDDEN), (None, 1)),
    f"{_LAYER}.self_attn.o_proj.weight": ((HIDDEN, HIDDEN), (1, 0)),
    f"{_LAYER}.mlp.gate_proj.weight": ((HIDDEN, FFN), (None, 1)),
    f"{_LAYER}.mlp.up_proj.weight": ((HIDDEN, FFN), (None, 1)),
    f"{_LAYER}.mlp.down_proj.weight": ((FFN, HIDDEN), (None, 0)),
    f"{_LAYER}.input_layernorm.weight": ((HIDDEN,), (None, None)),
    f"{_LAYER}.post_attention_layernorm.weight": ((HIDDEN,), (0, None)),
    "llama.norm.weight": ((HIDDEN,), (None, None)),
    "lm_head.weight": ((HIDDEN, VOCAB), (None, 1)),
}
STATES = ("embedding_0.w_0_moment1_0", "embedding_0.w_0_moment2_0")
ODD: dict[str, tuple[tuple[int, ...], tuple[int | None, ...], str]] = {
    "bfloat16": ((6, 8), (None, 1), "bfloat16"),
    "float16": ((8, 3), (0, 0), "float16"),
    "uneven": ((7, 3), (None, 0), "float32"),
    "uneven_both": ((5, 7), (0, 1), "float32"),
    "nobody_on_the_last": ((9,), (0,), "float32"),
    "on_half_of_them": ((1, 5), (None, 0), "float32"),
    "scalar": ((), (None, None), "float32"),
    "int64": ((8,), (0, None), "int64"),
}
RANGES = {"cut": (6, 8), "whole": (7, 3), "few": (7, 3)}


def values(name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """What is saved under a name."""
    found = 100 * np.random.default_rng(list(name.encode())).standard_normal(shape)
    return np.asarray(found).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def work() -> None:
    """What each of the four processes does."""
    import paddle
    import paddle.distributed as dist
    from paddle.distributed.flex_checkpoint.dcp.sharded_weight import ShardedWeight

    dist.init_parallel_env()
    rank = dist.get_rank()

    def shared(array: np.ndarray, dims: tuple[int | None, ...]) -> Any:
        mesh = dist.ProcessMesh([[0, 1], [2, 3]] if len(dims) == 2 else [0, 1, 2, 3])
        placements = [dist.Replicate() if dim is None else dist.Shard(dim) for dim in dims]
        if array.dtype in ("float32", "int64"):
            return dist.shard_tensor(paddle.to_tensor(array), mesh, placements)
        # Paddle cannot slice half precision on a CPU: cut as float32, then cast the parts
        part = dist.shard_tensor(paddle.to_tensor(array.astype("float32")), mesh, placements)._local_value()
        return dist.auto_parallel.api.dtensor_from_local(part.cast(array.dtype.name), mesh, placements)

    model = {name: shared(values(name, shape), dims) for name, (shape, dims) in LLAMA.items()}
    states = {name: shared(values(name, (VOCAB, HIDDEN)), (0, None)) for name in STATES}
    dist.save_state_dict({"model": model, "optimizer": states}, "llama/dist_ckpt")
    odd = {name: shared(values(name, shape, dtype), dims) for name, (shape, dims, dtype) in ODD.items()}
    dist.save_state_dict(odd, "odd")
    dist.save_state_dict({"model": {name: odd[name] for name in ("bfloat16", "uneven")}}, "safe", safetensors=True)

    cut, whole, few = (values(name, shape) for name, shape in RANGES.items())
    tensor, data = rank % 2, rank // 2
    half = cut[:, 4 * tensor : 4 * tensor + 4].reshape(-1)
    span = [slice(0, 10), slice(10, 24)][data]
    ends = [0, 9, 21, 21, 21]
    of_few = slice(ends[rank], ends[rank + 1])
    ranges = {
        "cut": ShardedWeight("cut", paddle.to_tensor(half[span]), (6, 4), (6, 8), (0, 4 * tensor), True, span),
        "whole": ShardedWeight("whole", paddle.to_tensor(whole), (7, 3), (7, 3), (0, 0)),
        "few": ShardedWeight("few", paddle.to_tensor(few.reshape(-1)[of_few]), (7, 3), (7, 3), (0, 0), True, of_few),
    }
    dist.save_state_dict(ranges, "ranges")


def main() -> None:
    if "PADDLE_TRAINER_ID" in os.environ:
        work()
        return
    for name in ("llama", "odd", "safe", "ranges"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as log:
        command = ["-m", "paddle.distributed.launch", "--nproc_per_node", "4", "--backend", "gloo", "--log_dir", log]
        subprocess.run([sys.executable, *command, Path(__file__).name], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
