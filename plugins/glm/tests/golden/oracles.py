"""The two reference implementations, made to run on one CPU process; the README says how to install them.

- GLM-10B: modelscope's `mglm`, which is the authors' code. It wants apex, deepspeed and Megatron's `mpu`: what it
  takes from them (their LayerNorm, linear and embedding layers, and questions about the other ranks) is given here as
  torch's own layers and the answers of a single rank.
- GLM-130B: SwissArmyTransformer, the framework that GLM-130B was published for. It is told that the CPU is its GPU,
  that nothing is rounded to half precision, and that a mask is boolean.
"""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

__all__ = ["block_data", "inference_positions", "mglm", "swiss"]


def _module(name: str, **content: Any) -> None:
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__dict__.update(content)


def _linear(width_in: int, width_out: int, **_: Any) -> torch.nn.Linear:
    return torch.nn.Linear(width_in, width_out)


def _embedding(rows: int, width: int, **_: Any) -> torch.nn.Embedding:
    return torch.nn.Embedding(rows, width)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


torch.Tensor.half = _same  # type: ignore[method-assign,assignment]
_module("sat.model.position_embedding.triton_rotary_embeddings", FastRotaryEmbedding=None)

from sat.model.official import glm130B_model as _swiss  # noqa: E402

# Only now: the code above asks which packages there are, and must not find these.
_module(
    "megatron_util",
    print_rank_0=print,
    mpu=SimpleNamespace(
        ColumnParallelLinear=_linear,
        RowParallelLinear=_linear,
        VocabParallelEmbedding=_embedding,
        LayerNorm=torch.nn.LayerNorm,
        copy_to_model_parallel_region=_same,
        divide=lambda whole, parts: whole // parts,
        gather_from_model_parallel_region=_same,
        get_cuda_rng_tracker=lambda: SimpleNamespace(fork=contextlib.nullcontext),
        get_model_parallel_rank=lambda: 0,
        get_model_parallel_world_size=lambda: 1,
        split_tensor_along_last_dim=lambda x, parts: torch.chunk(x, parts, dim=-1),
    ),
)
_module("deepspeed", checkpointing=SimpleNamespace(is_configured=lambda: False))
for _name in ("apex", "apex.normalization"):
    _module(_name)
_module("apex.normalization.fused_layer_norm", FusedLayerNorm=torch.nn.LayerNorm)

# The packages' own __init__ files import tokenizers, data sets and kernels; only these files are wanted.
_FOLDER = Path(str(find_spec("modelscope").origin)).parent / "models" / "nlp"  # type: ignore[union-attr]
for _name in ("mglm", "mglm.model", "glm_130b"):
    _module(f"modelscope.models.nlp.{_name}", __path__=[str(_FOLDER.joinpath(*_name.split(".")))])
_module("modelscope.models.nlp.glm_130b.generation", BaseStrategy=None, BeamSearchStrategy=None)
_module("modelscope.models.nlp.glm_130b.initialize", initialize=None, initialize_model_and_tokenizer=None)

_module("SwissArmyTransformer", mpu=None)
_module("SwissArmyTransformer.generation")
_module(
    "SwissArmyTransformer.generation.autoregressive_sampling",
    get_masks_and_position_ids_default=None,
    update_mems=None,
)
_module("SwissArmyTransformer.generation.utils", generate_continually=None, timed_name=None)

from modelscope.models.nlp.glm_130b.text_generation import get_masks_and_position_ids  # noqa: E402
from modelscope.models.nlp.mglm.blocklm_utils import ConstructBlockStrategy  # noqa: E402
from modelscope.models.nlp.mglm.model.modeling_glm import GLMModel  # noqa: E402

_attention = _swiss.SelfAttentionWithFP32SoftmaxMixin.attention_fn
_swiss.SelfAttentionWithFP32SoftmaxMixin.attention_fn = lambda self, q, k, v, mask, *rest, **more: _attention(
    self, q, k, v, mask.bool(), *rest, **more
)


def mglm(config: Mapping[str, Any]) -> torch.nn.Module:
    """GLM-10B's class; called with ids [B, S], positions [B, 2, S], and what is seen, [B, 1, S, S], 1 or 0."""
    return GLMModel(
        num_layers=config["num_layers"],
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_attention_heads=config["num_attention_heads"],
        embedding_dropout_prob=0.0,
        attention_dropout_prob=0.0,
        output_dropout_prob=0.0,
        max_sequence_length=config["max_sequence_length"],
        max_memory_length=0,
        checkpoint_activations=False,
        parallel_output=False,
        block_position_encoding=True,
    )


def swiss(config: Mapping[str, Any]) -> torch.nn.Module:
    """GLM-130B's class; called with ids [B, S], positions [B, S], and what is hidden, [B, 1, S, S], bool."""
    device = torch.get_default_device()
    torch.cuda.current_device = lambda: device  # type: ignore[assignment,return-value]
    names = ("num_layers", "hidden_size", "inner_hidden_size", "vocab_size", "num_attention_heads")
    arguments = {name: config[name] for name in (*names, "max_sequence_length", "layernorm_order")}
    switches = {"fp16": False, "skip_init": device.type == "meta", "position_encoding_2d": False, "no_glu": False}
    model = _swiss.GLM130B(Namespace(model_parallel_size=1, use_gpu_initialization=True, **arguments, **switches))
    # It makes some of its layers in half precision whatever it is told.
    return model if next(model.parameters()).is_meta else model.to(torch.get_default_dtype())


def block_data(tokens: list[int], spans: list[tuple[int, int]], ids: Mapping[str, int]) -> tuple[Any, Any, int]:
    """What GLM's own pretraining makes of a text whose `spans` are blanks: tokens, positions [2, S], prefix length."""
    strategy = SimpleNamespace(
        random_position=False,
        encoder_decoder=False,
        shuffle_blocks=False,
        sentinel_token=False,
        block_mask_prob=0.0,
        block_position_encoding=True,
        context_mask_ratio=0.0,
        eod_token=-1,
        tokenizer=SimpleNamespace(get_command=lambda name: SimpleNamespace(Id=ids[name])),
    )
    loss_masks, rng = [1] * len(tokens), None
    made = ConstructBlockStrategy.make_block_data(strategy, tokens, loss_masks, None, list(spans), rng)
    return made[0], made[3], made[4]


def inference_positions(prompt: list[int], mask_position: int, new: int, gmask: bool) -> list[int]:
    """The positions that GLM-130B's own inference gives a prompt (its last token is sop) and `new` tokens after it."""
    _, _, positions = get_masks_and_position_ids(torch.tensor([prompt]), mask_position, new, gmask)
    return positions[0].tolist()
