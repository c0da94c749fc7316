"""Preference optimisation, of all weights or of adapters: the loop, on pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.checkpoint import Reader, checkpoints
from zoo_core.engine import state as states
from zoo_core.engine.auto import engine_for
from zoo_core.engine.build import Source, from_seed
from zoo_core.engine.mesh import Mesh
from zoo_core.errors import CheckpointError
from zoo_core.plan import Plan
from zoo_core.registry import Found
from zoo_core.train.dpo_data import open_pairs
from zoo_core.train.dpo_engine import PairEngine
from zoo_core.train.dpo_objective import PairObjective
from zoo_core.train.log import logger
from zoo_core.train.loop import train
from zoo_core.train.prepare import other_fusing
from zoo_core.train.prepared import Prepared
from zoo_ops.preference import PreferenceLoss

__all__ = ["objective_of", "reference_folder", "run"]


def run(arguments: Arguments, plan: Plan, found: Found, prepared: Prepared, words: Sequence[str]) -> int:
    """Learn from preferences; see `zoo_core.train.loop.train`."""
    start = reference_folder(arguments, prepared)
    make = partial(_engine, arguments, found, prepared, start)
    return train(arguments, plan, found, prepared, words, partial(open_pairs, make))


def objective_of(arguments: Arguments) -> PairObjective:
    """Return what is minimised; ORPO is the likelihood of the chosen answers and a weighted odds ratio."""
    wanted = arguments.finetune
    loss = PreferenceLoss(
        wanted.loss_type, wanted.beta, wanted.label_smoothing, wanted.simpo_gamma, wanted.dpop_lambda
    )  # fmt: skip
    return PairObjective(loss, wanted.pref_loss_ratio, wanted.sft_loss_ratio)


def reference_folder(arguments: Arguments, prepared: Prepared) -> Path | None:
    """Return where the reference model of all weights lies; `None` where it is made from the seed.

    It is what training began with, or, where `ref_model_update_steps` moves it, a checkpoint.

    Raises:
        CheckpointError: that checkpoint is not there any more.
    """
    every, step = arguments.finetune.ref_model_update_steps, int(prepared.state.get("step", 0))
    moved = step // every * every if every > 0 else 0
    if prepared.resume is None or prepared.lora is not None or arguments.finetune.reference_free or not moved:
        return prepared.weights
    for folder in chain([prepared.resume], (held.path for held in checkpoints(prepared.resume.parent))):
        if folder.name == f"checkpoint-{moved}":
            return folder
    raise CheckpointError(
        f"cannot resume at step {step}: the reference model is missing",
        f"with ref_model_update_steps {every} it is the policy of step {moved}, of which there is no checkpoint",
        f"make save_steps divide {every}, and keep more checkpoints (save_total_limit)",
    )


def _engine(
    arguments: Arguments, found: Found, prepared: Prepared, start: Path | None, mesh: Mesh, *settings: Any
) -> PairEngine:
    """Build the policy, and the copy that it is kept near where it has no adapters to switch off.

    Args:
        start: where the reference model lies.
        settings: what `zoo_core.engine.Engine` takes after the mesh.
    """
    objective, has_reference = objective_of(arguments), not arguments.finetune.reference_free
    kind = engine_for(mesh.plan, PairEngine)
    engine = kind(
        mesh,
        *settings,
        objective=objective,
        has_reference=has_reference,
        update_every=arguments.finetune.ref_model_update_steps,
        taken=int(prepared.state.get("step", 0)),
    )
    if has_reference and prepared.lora is None:
        architecture, config, _, dtype, _, *more = settings
        table = found.architecture.table(config)

        def copy(source: Source) -> PairEngine:
            return kind(mesh, architecture, config, source, dtype, None, *more[:3], objective=objective)

        if start is None:
            engine.reference = copy(from_seed(arguments.training.seed, config, *mesh.cut))
        else:
            with Reader(start, table, other_fusing(found, config)) as reader:
                engine.reference = copy(states.from_checkpoint(reader, mesh, dtype))
        logger.info("reference  %s, a second copy", start or f"random, seed {arguments.training.seed}")
    elif has_reference:
        logger.info("reference  the model without its adapters")
    return engine
