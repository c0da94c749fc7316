"""What follows from the given arguments, and what contradicts itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zoo_core.arguments._registry import SPECS
from zoo_core.arguments._spec import ANSWERING
from zoo_core.errors import ConfigError

__all__ = ["Draft", "derive"]


@dataclass
class Draft:
    """Values while they are being put together; `rank` orders the sources, later is higher."""

    task: str
    values: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    rank: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fleetx_model: bool = False
    """Whether a FleetX file describes the model (Model.name)."""

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name, SPECS[name].default)

    def given(self, name: str) -> bool:
        """Whether a source set the argument."""
        return name in self.where

    def drop(self, name: str, winner: str) -> None:
        """Let a later source's `winner` replace `name`, and say so."""
        self.notes.append(f"{winner} (set {self.where[winner]}) replaces {name} (set {self.where[name]})")
        for store in (self.values, self.where, self.rank):
            store.pop(name)

    def later(self, name: str, other: str) -> bool:
        """Whether `name` was set by a later source than `other`, or `other` by none."""
        return self.given(name) and self.rank[name] > self.rank.get(other, -1)


def derive(draft: Draft) -> None:
    """Fill in what follows and check what belongs together.

    Raises:
        ConfigError: two arguments contradict each other, or the model is not named.
    """
    for rule in _RULES:
        rule(draft)


def _clash(draft: Draft, first: str, second: str, why: str, todo: str) -> ConfigError:
    places = " and ".join(f"{name} {draft.where[name]}" for name in (first, second) if draft.given(name))
    return ConfigError(
        f"{first} = {draft[first]!r} and {second} = {draft[second]!r} contradict each other",
        f"{why}; {places}" if places else why,
        todo,
    )


def _task_defaults(draft: Draft) -> None:
    """PaddleNLP's scripts differ here: pretraining starts at random, fine-tuning from weights and decays to zero."""
    if draft.task != "pretrain":
        draft.values.setdefault("continue_training", True)
        draft.values.setdefault("min_learning_rate", 0.0)
    for task, name in (("lora", "lora"), ("prefix", "prefix_tuning")):
        if draft.task == task and draft.given(name) and not draft[name]:
            raise ConfigError(f"the task is {task}, and {name} is false", f"set {draft.where[name]}",
                              f"leave {name} out, or run sft")  # fmt: skip
        if draft.task == task:
            draft.values[name] = True


def _width(draft: Draft) -> None:
    """FleetX's GPT is 4 x hidden_size wide unless ffn_hidden_size says otherwise."""
    if draft.fleetx_model and draft.given("hidden_size") and not draft.given("intermediate_size"):
        draft.values["intermediate_size"] = 4 * draft["hidden_size"]


def _precision(draft: Draft) -> None:
    if draft["fp16"] and draft["bf16"]:
        if draft.rank["fp16"] == draft.rank["bf16"]:
            raise _clash(draft, "fp16", "bf16", "a run computes in one of them", "set one of them to false")
        draft.values["fp16" if draft.later("bf16", "fp16") else "bf16"] = False


def _accumulation(draft: Draft) -> None:
    """FleetX states the accumulation as local_batch_size / micro_batch_size."""
    for name in ("local_batch_size", "gradient_accumulation_steps"):
        if draft.given(name) and draft.later("global_batch_size", name):
            draft.drop(name, "global_batch_size")
    local, micro = draft["local_batch_size"], draft["per_device_train_batch_size"]
    if local is not None and not draft.later("gradient_accumulation_steps", "local_batch_size"):
        if local % micro:
            raise _clash(draft, "local_batch_size", "per_device_train_batch_size",
                         "the local batch is not a whole number of micro batches",
                         f"make local_batch_size a multiple of {micro}")  # fmt: skip
        steps = local // micro
        if draft.given("gradient_accumulation_steps") and draft["gradient_accumulation_steps"] != steps:
            raise _clash(draft, "local_batch_size", "gradient_accumulation_steps",
                         f"local / micro = {steps}", "leave one of them out")  # fmt: skip
        draft.values["gradient_accumulation_steps"] = steps
    elif local is not None:
        draft.values["local_batch_size"] = micro * draft["gradient_accumulation_steps"]
    total, replicas = draft["global_batch_size"], draft["data_parallel_degree"]
    if total is not None and local is not None and replicas > 0:
        replicas *= max(draft["sharding_parallel_degree"], 1)
        if total != draft["local_batch_size"] * replicas:
            raise _clash(draft, "global_batch_size", "local_batch_size",
                         f"local_batch_size x {replicas} replicas is {draft['local_batch_size'] * replicas}",
                         "leave one of the batch sizes out")  # fmt: skip


def _saving(draft: Draft) -> None:
    if draft.later("save_steps", "save_strategy"):
        draft.values["save_strategy"] = "steps"
    switches = str(draft["unified_checkpoint_config"] or "").replace(",", " ").split()
    if "async_save" in switches and not draft.given("async_save"):
        draft.values["async_save"] = True
    if idle := [word for word in switches if word != "async_save"]:
        where = draft.where["unified_checkpoint_config"]
        draft.notes.append(
            f"unified_checkpoint_config (set {where}): {', '.join(idle)} without effect, there is one format"
        )


def _evaluation(draft: Draft) -> None:
    off = draft.given("do_eval") and not draft["do_eval"]
    if off:
        if draft["evaluation_strategy"] != "no":
            draft.notes.append(f"do_eval is false (set {draft.where['do_eval']}): evaluation_strategy is not followed")
        draft.values["evaluation_strategy"] = "no"
    elif draft.later("eval_steps", "evaluation_strategy"):
        draft.values["evaluation_strategy"] = "steps"
    elif draft["do_eval"] and not draft.given("evaluation_strategy"):
        draft.values["evaluation_strategy"] = "steps"
    if draft["evaluation_strategy"] != "no":
        draft.values["do_eval"] = True
    if draft["evaluation_strategy"] == "steps" and draft["eval_steps"] is None:
        draft.values["eval_steps"] = draft["logging_steps"]


def _best_model(draft: Draft) -> None:
    if not draft["load_best_model_at_end"]:
        return
    if draft["evaluation_strategy"] != draft["save_strategy"]:
        raise _clash(draft, "evaluation_strategy", "save_strategy",
                     "load_best_model_at_end needs a checkpoint of each evaluation", "make the two equal")  # fmt: skip
    if draft["evaluation_strategy"] == "steps" and draft["save_steps"] % draft["eval_steps"]:
        raise _clash(draft, "save_steps", "eval_steps",
                     "load_best_model_at_end needs a checkpoint of each evaluation",
                     "make save_steps a multiple of eval_steps")  # fmt: skip
    if draft["metric_for_best_model"] is None:
        answers = draft["eval_with_do_generation"] and draft.task in ANSWERING
        draft.values["metric_for_best_model"] = "bleu4" if answers else "loss"
    if draft["greater_is_better"] is None:
        draft.values["greater_is_better"] = draft["metric_for_best_model"] not in (
            "loss",
            "eval_loss",
            "ppl",
            "eval_ppl",
        )


def _schedule(draft: Draft) -> None:
    if draft["warmup_steps"] > 0 and draft.later("warmup_ratio", "warmup_steps"):
        draft.drop("warmup_steps", "warmup_ratio")
    if draft["max_steps"] > 0 and draft.later("num_train_epochs", "max_steps"):
        draft.drop("max_steps", "num_train_epochs")
    highest, lowest = draft["learning_rate"], draft["min_learning_rate"]
    if lowest > highest:
        if draft.given("min_learning_rate"):
            raise _clash(draft, "min_learning_rate", "learning_rate", "the rate falls to its minimum",
                         "lower min_learning_rate")  # fmt: skip
        draft.values["min_learning_rate"] = highest / 10
        draft.notes.append(f"the default min_learning_rate {lowest:g} is above learning_rate {highest:g}: "
                           f"{highest / 10:g} is used")  # fmt: skip


def _data(draft: Draft) -> None:
    if draft.given("tgt_length") and not draft.given("max_length"):
        draft.values["max_length"] = draft["src_length"] + draft["tgt_length"]
    if draft["zero_padding"] and draft["eval_with_do_generation"]:
        raise _clash(draft, "zero_padding", "eval_with_do_generation", "packed rows hold several answers",
                     "evaluate without generation, or do not pack")  # fmt: skip


def _preference(draft: Draft) -> None:
    """SimPO and ORPO have no reference model, and ORPO learns the chosen answers too; as in PaddleNLP."""
    if draft.task != "dpo":
        return
    kind = draft["loss_type"]
    if kind in ("simpo", "orpo"):
        draft.values["reference_free"] = True
    if kind == "orpo" and not draft.given("sft_loss_ratio"):
        draft.values["sft_loss_ratio"] = 1.0
    if draft["label_smoothing"] and kind not in ("sigmoid", "simpo"):
        draft.notes.append(f"label_smoothing changes nothing: the loss {kind} has none")


def _home(draft: Draft) -> None:
    """A file's `~` is not expanded by any shell."""
    for name in ("output_dir", "logging_dir"):
        if draft.given(name) and draft[name] is not None:
            draft.values[name] = os.path.expanduser(draft[name])


def _named(draft: Draft) -> None:
    if draft.task == "predict" and draft["export_dir"]:  # an exported model says itself what it is
        if draft["model_name_or_path"] not in (None, draft["export_dir"]):
            draft.notes.append("model_name_or_path has no effect: the programs in export_dir answer")
        draft.values["model_name_or_path"] = draft["export_dir"]
    if not draft["model_name_or_path"]:
        raise ConfigError("no model is named", "neither a file nor a flag sets model_name_or_path",
                          "say --model NAME; `zoo models` lists the names")  # fmt: skip


_RULES: tuple[Callable[[Draft], None], ...] = (
    _named, _task_defaults, _width, _precision, _accumulation, _saving, _evaluation, _best_model, _schedule, _data,
    _preference, _home,
)  # fmt: skip
