"""What `zoo run --dry-run` shows beyond the plan: shapes on a rank, the length of the run, the files it would write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo_core import layout
from zoo_core._counting import many
from zoo_core.arguments import ANSWERING, TUNING, Arguments
from zoo_core.cli._text import bytes_text, table
from zoo_core.layout import Rule
from zoo_core.plan import Plan, owners
from zoo_core.plan.counts import Counted
from zoo_core.plan.precision import Numbers
from zoo_core.plan.text import sample_name, tokens_text

__all__ = ["arithmetic", "files_lines", "shapes_table"]


def arithmetic(arguments: Arguments, plan: Plan) -> str:
    """How long the run is, where the arguments alone say it."""
    steps = arguments.training.max_steps
    if steps <= 0:
        epochs = arguments.training.num_train_epochs
        return f"steps      {epochs:g} epoch{'' if epochs == 1 else 's'} of the training part"
    samples = steps * plan.global_batch
    tokens = tokens_text(plan, arguments.task, samples)
    what = sample_name(arguments.task)
    return f"steps      {steps:,} of {many(plan.global_batch, what)} = {many(samples, what)}{tokens}"


def shapes_table(plan: Plan, parameters: Mapping[str, Rule]) -> str:
    """Return a table of the shapes that a rank holds, alike ones together, and on which stages they are."""
    owned = owners(parameters, plan.layers, plan.blocks)
    known: dict[tuple[str, tuple[int, ...]], tuple[Rule, dict[int, int]]] = {}
    for name, rule in parameters.items():
        if rule.expert is not None and rule.expert % plan.expert:
            continue  # of every `expert` experts a rank holds one
        pattern = ".".join("*" if word.isdigit() else word for word in name.split("."))
        _, stages = known.setdefault((pattern, rule.shape), (rule, {}))
        stage = plan.stage_of(owned[name])
        stages[stage] = stages.get(stage, 0) + 1
    rows = []
    for (pattern, shape), (rule, stages) in known.items():
        local = layout.local_shape(rule, plan.tensor)
        held = ", ".join(
            f"{count} on {_run(numbers)}" if plan.pipeline > 1 else str(count)
            for count, numbers in _by_count(stages).items()
        )
        rows.append((pattern, _shape(shape), _shape(local) if local != shape else "whole", held))
    return table(("PARAMETER", "GLOBAL", "ON A RANK", "HOW MANY"), rows)


def _by_count(stages: Mapping[int, int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for stage, count in sorted(stages.items()):
        found.setdefault(count, []).append(stage)
    return found


def _run(stages: list[int]) -> str:
    if len(stages) == 1:
        return f"stage {stages[0]}"
    together = stages == list(range(stages[0], stages[-1] + 1))
    return f"stages {stages[0]}-{stages[-1]}" if together else "stages " + " ".join(map(str, stages))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def files_lines(arguments: Arguments, plan: Plan, counts: Counted, numbers: Numbers) -> str:
    """Return the files that the run would write, and how large its checkpoints are."""
    elements, optimizer = counts.added or counts.parameters, "optimizer"
    held, masters = "model", "master_weights"
    if counts.tuned.frozen:
        # as `zoo_core.checkpoint.names` has them, which does not come without numpy
        held = "prefix" if counts.tuned.virtual_tokens else "lora"
        optimizer, masters = f"{held}_optimizer", f"{held}_master_weights"
    training, root = arguments.training, Path(arguments.training.output_dir)
    results = ["train_results.json", "eval_results.json", "all_results.json"] if arguments.task in TUNING else []
    if arguments.task in ANSWERING:
        results += ["test_results.json"] if training.do_predict else []
        results += ["generated_output.json"] if arguments.data.save_generation_output else []
    lines = [f"  {root / name}" for name in ("loss.csv", "loss.png", "runs/", *results)]
    if training.save_strategy != "no":
        steps, every = training.max_steps, training.save_steps
        often = "each epoch"
        if training.save_strategy == "steps":
            often = f"every {many(every, 'step') if every > 1 else 'step'} and at the end" if every else "at the end"
        kept = f", the newest {training.save_total_limit} kept" if training.save_total_limit else ""
        count = f", {-(-steps // every)} in all" if steps > 0 and every and training.save_strategy == "steps" else ""
        size = elements * (numbers.weight_bytes + numbers.state_bytes)
        lines.append(f"  {root / 'checkpoint-STEP/'} {often}{count}{kept}; each of {bytes_text(size)}:")
        masters = f", {masters}-*-of-*.safetensors" if numbers.master else ""
        lines.append(f"    {held}-*-of-*.safetensors, {optimizer}-*-of-*.safetensors{masters}, their index files")
        lines.append("    config.json, trainer_state.json, manifest.json, the tokenizer's files")
        lines.append(f"  {root / 'latest'}")
        if counts.tuned.frozen:
            lines.append(f"  {root / 'adapter/'} as PEFT loads it")
    if plan.world > 1:
        lines.append(f"  {Path(arguments.launch.log_dir) / 'workerlog.'}0 to {plan.local_world - 1} on each machine")
    return "files it would write:\n" + "\n".join(lines)
