"""Time each operation of zoo_ops alone, forward and backward, against paddle's plain form, on CPU.

Sizes are those of the model of the training benchmark: batch 2, sequence 512, 8 heads of 64, hidden 512, FFN 1376.
The two forms alternate in one process and the least of the rounds counts, so that a busy machine disturbs both alike.

    python benchmarks/ops.py [--rounds 15] [--threads 2] [--default-malloc]
"""

from __future__ import annotations

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--default-malloc", action="store_true", help="hand freed memory back, as glibc does by itself")
    args = parser.parse_args()
    os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    from zoo_ops.cpu.memory import keep_freed_memory

    if not args.default_malloc:
        keep_freed_memory()

    import paddle
    import paddle.nn.functional as F

    from zoo_ops import Batch, cross_entropy
    from zoo_ops.core_attention import attention, attention_sdpa
    from zoo_ops.feed_forward import gated, gated_reference
    from zoo_ops.norm import rms_norm, rms_norm_reference
    from zoo_ops.rope import apply_rope, apply_rope_reference, rope_angles

    B, S, N, D, H, FF, V = 2, 512, 8, 64, 512, 1376, 32000
    batch = Batch(paddle.zeros([B, S], "int64"))
    packed = Batch(batch.input_ids, segment_ids=(paddle.arange(S) // 200).unsqueeze(0).expand([B, S]))
    cos, sin = rope_angles(None, S, D)
    labels = paddle.randint(0, V, [B, S])
    heads, kv, hidden, wide = [B, S, N, D], [B, S, 2, D], [B, S, H], [B, S, FF]
    cases = {
        "attention": ([heads] * 3, lambda *x: attention_sdpa(*x, batch), lambda *x: attention(*x, batch)),
        "attention, packed": ([heads] * 3, lambda *x: attention_sdpa(*x, packed), lambda *x: attention(*x, packed)),
        "attention, 2 kv heads": (
            [heads, kv, kv],
            lambda *x: attention_sdpa(*x, batch),
            lambda *x: attention(*x, batch),
        ),
        "rotary": ([heads], lambda x: apply_rope_reference(x, cos, sin), lambda x: apply_rope(x, cos, sin)),
        "RMSNorm": ([hidden, [H]], lambda *x: rms_norm_reference(*x, 1e-6), lambda *x: rms_norm(*x, 1e-6)),
        "SwiGLU": ([wide, wide], gated_reference, gated),
        "cross entropy": (
            [[B, S, V]],
            lambda x: F.cross_entropy(x, labels, reduction="none").squeeze(-1),
            lambda x: cross_entropy(x, labels),
        ),
        "linear (no other form)": ([hidden, [H, FF]], F.linear, F.linear),
    }

    def once(function, leaves, grad):
        """Return wall seconds of forward and backward together."""
        start = time.perf_counter()
        function(*leaves).backward(grad)
        spent = time.perf_counter() - start
        for leaf in leaves:
            leaf.clear_grad()
        return spent

    print(f"paddle {paddle.__version__}, {args.threads} threads, least of {args.rounds} rounds, ms forward + backward")
    print(f"| {'operation':24} | {'plain':>8} | {'zoo':>8} | {'ratio':>6} |\n|---|---|---|---|", flush=True)
    for name, (shapes, plain, ours) in cases.items():
        leaves = [paddle.randn(shape) for shape in shapes]
        for leaf in leaves:
            leaf.stop_gradient = False
        grad = paddle.randn(plain(*leaves).shape)
        both = [(once(plain, leaves, grad), once(ours, leaves, grad)) for _ in range(args.rounds)]
        a, b = (min(column) * 1e3 for column in zip(*both, strict=True))
        print(f"| {name:24} | {a:8.2f} | {b:8.2f} | {a / b:6.2f} |", flush=True)


if __name__ == "__main__":
    main()
