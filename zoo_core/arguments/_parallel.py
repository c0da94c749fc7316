"""Arguments about splitting the work over processes, and about trading time for memory."""

from __future__ import annotations

from typing import Any

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect, on_gpu

__all__ = ["ParallelArguments"]

_STAGES = ("stage1", "stage2", "stage3")


def _sharding(value: Any) -> str:
    """Return "", "stage1", "stage2", "stage3", with " offload" where asked; true means stage1, as in PaddleNLP."""
    if isinstance(value, bool):
        return "stage1" if value else ""
    words = [str(word).lower() for word in (value if isinstance(value, (list, tuple)) else str(value).split())]
    words = {"true": ["stage1"], "false": [], "none": []}.get(" ".join(words), words)
    stages = [word for word in words if word in _STAGES]
    if len(stages) > 1 or len(words) - len(stages) - words.count("offload") or words.count("offload") > 1:
        raise ValueError("stage1, stage2 or stage3, and 'offload' after it if wanted")
    if words and not stages:
        raise ValueError("a stage before 'offload', such as 'stage2 offload'")
    return " ".join(stages + ["offload"] * words.count("offload"))


def _words(value: Any) -> str:
    """Return switches as one line of words, from a line or a list."""
    return " ".join(str(word) for word in value) if isinstance(value, (list, tuple)) else str(value)


@group
class ParallelArguments(Group):
    """Degrees (-1: not used, or derived), sharding, pipeline, recompute."""

    tensor_parallel_degree: int = argument(
        -1, "Processes that share each layer; -1 is 1.", aliases=("mp_degree", "tp", "tp_degree"), minimum=-1
    )
    pipeline_parallel_degree: int = argument(
        -1, "Processes that share the list of layers; -1 is 1.", aliases=("pp_degree", "pp"), minimum=-1
    )
    sharding_parallel_degree: int = argument(
        -1, "Processes that share optimizer states; -1 with `sharding` is world / (tp x pp), else 1.",
        aliases=("sharding_degree",), minimum=-1,
    )  # fmt: skip
    data_parallel_degree: int = argument(
        -1, "Replicas; always derived as world / (sharding x tp x pp), and checked against this when given.",
        aliases=("dp_degree", "dp"), minimum=-1,
    )  # fmt: skip
    expert_parallel_degree: int = argument(
        -1, "Processes that share the experts; -1 is 1.", aliases=("ep_degree",), minimum=-1,
    )  # fmt: skip
    sep_parallel_degree: int = argument(
        -1, "PaddleNLP: segment parallelism; -1 is 1.", minimum=-1, maximum=1,
        effect=no_effect("refused above 1: not part of zoo's plans"),
    )  # fmt: skip
    context_parallel_degree: int = argument(
        -1, "PaddleNLP: ring attention over the sequence; -1 is 1.", minimum=-1, maximum=1,
        effect=no_effect("refused above 1: not part of zoo's plans"),
    )  # fmt: skip
    sharding: str = argument(
        "", "stage1 (optimizer states), stage2 (and gradients), stage3 (and parameters), each also with `offload`.",
        parse=_sharding,
    )  # fmt: skip
    sharding_offload: bool = argument(False, "Keep the sharded optimizer states in host memory.", effect=on_gpu())
    sequence_parallel: bool = argument(False, "Split the sequence between the tensor-parallel parts of a block.")
    virtual_pp_degree: int = argument(
        1, "Chunks of layers for each pipeline stage (interleaved schedule).", aliases=("vpp",), minimum=1
    )
    pipeline_cuts: tuple[int, ...] = argument(
        (), "Block numbers at which the second and later stages begin; empty cuts evenly.", aliases=("pp_cuts",),
        minimum=1,
    )  # fmt: skip
    recompute: bool = argument(
        False, "Recompute activations in the backward pass to save memory.",
        aliases=("use_recompute", "gradient_checkpointing"),
    )  # fmt: skip
    recompute_granularity: str = argument(
        "full", "What is recomputed: the whole block, its attention sublayer, or the attention core.",
        choices=("full", "full_attn", "core_attn"),
    )  # fmt: skip
    pp_recompute_interval: int = argument(
        1, "Recompute every so many layers of a stage; 0 recomputes none.", unit="layers", minimum=0
    )
    no_recompute_layers: tuple[int, ...] = argument((), "Block numbers that are not recomputed.", minimum=0)
    recompute_use_reentrant: bool = argument(
        False, "PaddleNLP: recompute by PyLayer.", effect=no_effect("fleet's recompute is exact in either form")
    )
    plan: str | None = argument(
        None, "`auto` lets zoo choose what is not given of degrees, batches and recompute: the fastest that fits.",
        choices=("auto",),
    )  # fmt: skip
    engine: str = argument(
        "manual", "Which engine runs the plan: zoo's own layers over fleet, or Paddle's semi-automatic one.",
        choices=("manual", "auto"),
    )  # fmt: skip
    enable_auto_parallel: bool = argument(False, "PaddleNLP: use the semi-automatic engine, as `--engine auto` does.")
    use_intermediate_api: bool = argument(
        False, "PaddleNLP auto parallel: its middle-level interface.", effect=no_effect("zoo has one layout table")
    )
    auto_parallel_resume_form_hybrid_parallel: bool = argument(
        False, "PaddleNLP auto parallel: resume from a manual run's checkpoint.",
        effect=no_effect("one checkpoint format serves every layout"),
    )  # fmt: skip
    to_static: bool = argument(
        False,
        "Train the traced graph of the model, without recompute: by `paddle.jit.to_static`, and with `--engine "
        "auto` on several processes by Paddle's static engine (`dist.to_static`).",
    )
    sharding_parallel_config: str = argument(
        "", "PaddleNLP: switches of sharding's communication.", parse=_words,
        effect=no_effect("fusion and overlap are the engine's choice"),
    )  # fmt: skip
    tensor_parallel_config: str = argument(
        "", "PaddleNLP: switches of tensor parallelism's communication.", parse=_words,
        effect=no_effect("projections that share an input already share one collective"),
    )  # fmt: skip
    pipeline_parallel_config: str = argument(
        "", "PaddleNLP: switches of the pipeline's communication.", parse=_words,
        effect=no_effect("the schedule's communication is the engine's choice"),
    )  # fmt: skip
    data_parallel_config: str = argument(
        "", "PaddleNLP: switches of data parallelism's communication.", parse=_words,
        effect=no_effect("gradients are summed once a step"),
    )  # fmt: skip
    sequence_parallel_config: str = argument(
        "", "PaddleNLP: switches of sequence parallelism's communication.", parse=_words,
        effect=no_effect("the engine's choice"),
    )  # fmt: skip
    fuse_sequence_parallel_allreduce: bool = argument(
        False, "Sum the norms' gradients in one collective.",
        effect=no_effect("they are always summed once a step"),
    )  # fmt: skip
    hybrid_parallel_topo_order: str | None = argument(
        None, "PaddleNLP: order of the communication groups.", choices=("pp_first", "sharding_first"),
        effect=no_effect("the mesh has one order"),
    )  # fmt: skip
    pipeline_schedule_mode: str | None = argument(
        None, "PaddleNLP auto parallel: the schedule.",
        effect=no_effect("1F1B, interleaved when virtual_pp_degree is above 1"),
    )  # fmt: skip
    virtual_pipeline_seg_method: str | None = argument(
        None, "PaddleNLP: class name at which chunks are cut.", aliases=("pp_seg_method",),
        effect=no_effect("chunks are cut at the plugin's blocks; see pipeline_cuts"),
    )  # fmt: skip

    @property
    def tp(self) -> int:
        """Tensor-parallel degree, at least 1."""
        return max(self.tensor_parallel_degree, 1)

    @property
    def pp(self) -> int:
        """Pipeline degree, at least 1."""
        return max(self.pipeline_parallel_degree, 1)

    @property
    def ep(self) -> int:
        """Expert-parallel degree, at least 1."""
        return max(self.expert_parallel_degree, 1)

    @property
    def sharding_stage(self) -> int:
        """0 without sharding, else 1, 2 or 3."""
        return int(self.sharding[5]) if self.sharding else 0

    @property
    def offload(self) -> bool:
        """Whether sharded optimizer states are kept in host memory."""
        return self.sharding_offload or self.sharding.endswith("offload")
