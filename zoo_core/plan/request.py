"""What a user asks of the mesh, and the same with nothing left open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["Degrees", "Recompute", "Request", "asking_for"]

_TASK_CELLS = {
    **{name: name for name in ("pretrain", "sft", "lora", "dpo")},
    **{"prefix": "prefix_tuning", "compress": "compression"},
    **{name: "generation" for name in ("predict", "serve")},
}
"""Task of a run -> its cell of the capability matrix; the others have none."""

_AUTO_CELLS = {"pretrain": "semi_auto", **{task: f"semi_auto_{task}" for task in ("sft", "lora", "dpo")}}
"""Task of a run under the semi-automatic engine -> its cell."""

Recompute = Literal["none", "full", "full_attn", "core_attn"]


@dataclass(frozen=True)
class Request:
    """The parallel part of a run as a user states it.

    Args:
        world: processes, over all machines.
        tensor, pipeline, expert: degrees of the axes.
        sharding: degree over which optimizer states are shared; `None` is world / (tensor x pipeline) with a stage,
            else 1.
        sharding_stage: 0 (off), 1 (optimizer states), 2 (and gradients), 3 (and parameters).
        data: number of replicas if the user gave it, to be checked against the derived one.
        virtual_stages: chunks of layers that each pipeline stage holds; above 1 is the interleaved schedule.
        sequence_parallel: split the sequence over the tensor axis between the blocks' matrix products.
        micro_batch: samples of one replica in one forward pass.
        accumulate: micro batches of one optimizer step.
        sequence: tokens of a sample, if known.
        recompute: what is recomputed in the backward pass.
        recompute_interval: every so many blocks of a stage are recomputed.
        offload: keep the sharded optimizer states in host memory.
        pipeline_cuts: block numbers at which the second and later chunks begin; empty cuts evenly.
        task: a task of `zoo_core.arguments` ("pretrain", "sft", "lora", "prefix", ...), or "logits".
        lora: adapters are trained, whatever the task.
        virtual_tokens: length of a prefix that every layer has, 0 without one.
        projects_prefix: all layers' prefixes are made from one embedding.
        generation_evaluation: evaluation generates text.
        flash_attention: attention by a GPU's flash kernels.
        semi_auto: the semi-automatic engine runs the plan.
        to_static: the traced graph is trained.
        nodes: machines.
        device: "cpu", "gpu" or "xpu".
    """

    world: int = 1
    tensor: int = 1
    pipeline: int = 1
    sharding: int | None = None
    sharding_stage: int = 0
    data: int | None = None
    expert: int = 1
    virtual_stages: int = 1
    sequence_parallel: bool = False
    micro_batch: int = 1
    accumulate: int = 1
    sequence: int | None = None
    recompute: Recompute = "none"
    recompute_interval: int = 1
    offload: bool = False
    pipeline_cuts: tuple[int, ...] = ()
    task: str = "pretrain"
    lora: bool = False
    virtual_tokens: int = 0
    projects_prefix: bool = False
    generation_evaluation: bool = False
    flash_attention: bool = False
    semi_auto: bool = False
    to_static: bool = False
    nodes: int = 1
    device: str = "cpu"

    @property
    def wanted_world(self) -> int:
        """The smallest world in which the stated degrees are all used."""
        return self.tensor * self.pipeline * (self.sharding or 1) * (self.data or 1)

    def resolved(self) -> Degrees:
        """Fill in the derived degrees and switch off what has no effect, remembering to say so."""
        request, said = self, []
        model_ranks = max(self.tensor, 1) * max(self.pipeline, 1)
        sharding = self.sharding
        if sharding is None:
            sharding = max(self.world // model_ranks, 1) if self.sharding_stage else 1
        if self.sharding_stage and sharding == 1:
            said.append(f"sharding stage{self.sharding_stage} over one process has no effect: off")
            request = replace(request, sharding_stage=0)
        if self.offload and not request.sharding_stage:
            said.append("offload without sharding has no effect: off")
            request = replace(request, offload=False)
        if request.offload and request.sharding_stage == 1:
            said.append("offload with sharding stage1 has no effect, stages 2 and 3 have it: off")
            request = replace(request, offload=False)
        if request.offload and self.device == "cpu":
            said.append("offload on CPU has no effect, everything is in host memory: off")
            request = replace(request, offload=False)
        if self.sequence_parallel and self.tensor == 1:
            said.append("sequence_parallel without tensor parallelism has no effect: off")
            request = replace(request, sequence_parallel=False)
        if self.recompute_interval == 0 and self.recompute != "none":
            said.append("a recompute interval of 0 recomputes nothing: off")
            request = replace(request, recompute="none")
        data = max(self.world // (model_ranks * max(sharding, 1)), 1)
        return Degrees(replace(request, sharding=sharding), data, sharding, tuple(said))


@dataclass(frozen=True)
class Degrees:
    """A request with the derived degrees filled in.

    Args:
        request: the request, its `sharding` filled in and what has no effect switched off.
        data: the derived number of replicas outside the sharding axis.
        sharding: degree of the sharding axis.
        remarks: what was switched off, and why.
    """

    request: Request
    data: int
    sharding: int
    remarks: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """Contiguous runs of layers: stages x virtual stages."""
        return self.request.pipeline * self.request.virtual_stages

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names of `zoo_core.capabilities.CELLS` and `MODES` of everything that is on, the task included."""
        r = self.request
        recompute, stage = r.recompute != "none", f"sharding_stage{r.sharding_stage}"
        on = {
            _TASK_CELLS.get(r.task, ""): True,
            "lora": r.lora or r.task == "lora",
            "prefix_tuning": r.virtual_tokens > 0 or r.task == "prefix",
            "data_parallel": self.data > 1,
            "tensor_parallel": r.tensor > 1,
            "pipeline_parallel": r.pipeline > 1,
            "sequence_parallel": r.sequence_parallel,
            "flash_attention": r.flash_attention,
            "selective_recompute": r.recompute in ("full_attn", "core_attn"),
            "sharding": r.sharding_stage > 0,
            stage: r.sharding_stage > 0,
            f"{stage}_recompute": r.sharding_stage > 0 and recompute,
            f"{stage}_dp": r.sharding_stage > 0 and self.data > 1,
            "virtual_pipeline": r.virtual_stages > 1,
            "expert_parallel": r.expert > 1,
            _AUTO_CELLS.get(r.task, "") if not r.lora else "semi_auto_lora": r.semi_auto,
            "to_static": r.to_static,
            "offload": r.offload,
            "recompute": recompute,
            "generation_evaluation": r.generation_evaluation,
        }
        return tuple(name for name, used in on.items() if used and name)


def asking_for(cell: str) -> Request:
    """Return a small request in which a cell of the capability matrix is on, for a model that has its blocks and heads.

    Raises:
        KeyError: there is no such cell.
    """
    stages = {
        f"sharding_stage{stage}_{other}": {"sharding": 2, "sharding_stage": stage, **more}
        for stage in (1, 2, 3)
        for other, more in (("recompute", {"world": 2, "recompute": "full"}), ("dp", {"world": 4}))
    }
    asked: dict[str, dict[str, Any]] = {
        **{cell: {"task": task} for task, cell in _TASK_CELLS.items()},
        "data_parallel": {"world": 2},
        "tensor_parallel": {"world": 2, "tensor": 2},
        "pipeline_parallel": {"world": 2, "pipeline": 2},
        "sequence_parallel": {"world": 2, "tensor": 2, "sequence_parallel": True},
        "flash_attention": {"flash_attention": True},
        "selective_recompute": {"recompute": "core_attn"},
        **stages,
        "virtual_pipeline": {"world": 4, "pipeline": 4, "virtual_stages": 2, "accumulate": 8},
        "expert_parallel": {"world": 2, "expert": 2},
        **{cell: {"semi_auto": True, "task": task} for task, cell in _AUTO_CELLS.items()},
        "to_static": {"to_static": True},
    }
    return Request(**asked[cell])
