"""Elastic restart: when a worker dies, the run goes on from its last good checkpoint. No paddle.

`paddle.distributed.launch` 3.3.1 restarts workers only under an etcd master (`CollectiveElasticController`); under its
own master `--max_restart` changes nothing. So the command that launched the workers does it: it chooses the checkpoint,
and the plan when a worker has to be left out, and launches again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.checkpoint import checkpoints, verify
from zoo_core.config import ModelConfig
from zoo_core.engine.launch import Died, spawn
from zoo_core.environment import device_count
from zoo_core.errors import CheckpointError, ConfigError, ZooError
from zoo_core.plan import Plan, Request, compose, facts, from_arguments, shrunk
from zoo_core.registry import Found

__all__ = ["keep_running"]


def keep_running(
    arguments: Arguments, plan: Plan, found: Found, config: ModelConfig, start: str, words: Sequence[str]
) -> int:
    """Run this command in workers, again after one dies, at most `max_restarts` times; return the exit status.

    A worker that dies twice without a new checkpoint between, or whose device is gone, is left out. An error that a
    worker reports would come again: it ends the run.

    Args:
        arguments: of the run.
        plan: of its first launch.
        found: the model.
        config: of the model, as it is trained.
        start: where the run begins, to be said when it begins there again.
        words: the command line after `zoo`.

    Raises:
        ZooError: what a worker reported; or a worker died and no restart is left.
    """
    if arguments.launch.nnodes > 1 and arguments.launch.max_restarts:
        raise ConfigError(
            "max_restarts is for one machine",
            f"there are {arguments.launch.nnodes}, and one cannot see that a worker of another died",
            "leave it out, and start all machines again with --resume latest",
        )
    run = _Run(arguments, plan, found, config, start)
    while True:
        try:
            return spawn(run.arguments.launch, run.plan, words, run.changes)
        except Died as error:
            run.after(error)


class _Run:
    """What the next launch is to be."""

    def __init__(self, arguments: Arguments, plan: Plan, found: Found, config: ModelConfig, start: str) -> None:
        self.arguments, self.plan = arguments, plan
        self.changes: dict[str, Any] = {}
        self._given, self._found, self._config, self._start = arguments, found, config, start
        self._root = Path(arguments.training.output_dir)
        self._older = {saved.path: saved.saved_at for saved in checkpoints(self._root)}
        self._restarts, self._first_world = 0, plan.world
        self._last_death: tuple[int | None, Path | None] | None = None

    def after(self, error: Died) -> None:
        """Choose checkpoint and plan after a death, and say which.

        Raises:
            ZooError: no restart is left.
        """
        most = self._given.launch.max_restarts
        good = self._newest(whole=self._restarts < most)
        if self._restarts == most:
            used = f" after {most} restart{'s' * (most != 1)}, as many as max_restarts allows" if most else ""
            todo = error.todo + (f"; --resume goes on from {good}" if good else "")
            raise ZooError(error.what + used, error.why, todo)
        self._restarts += 1
        said = [f"restart    {self._restarts} of {most}: {error.what}"]
        again = self._last_death == (error.worker, good) and error.worker is not None
        self._last_death = (error.worker, good)
        self._resume_from(good)
        left = self._left(error.worker if again else None)
        if left < self.plan.world:
            if again:
                said.append(f"left out   worker {error.worker}: it died twice without a new checkpoint between")
            said.append(self._shrink(left))
            self._last_death = None
        said.append(f"weights    {good or self._start}")
        print("\n".join(said), flush=True)

    def _newest(self, whole: bool) -> Path | None:
        """The newest checkpoint of this run; with `whole` one whose every byte is as it was written."""
        for saved in checkpoints(self._root):
            if self._older.get(saved.path) == saved.saved_at:
                continue
            try:
                if whole:
                    verify(saved.path)
            except CheckpointError as error:
                print(f"warning: {error.what} and is passed over: {error.why}", flush=True)
            else:
                return saved.path
        return None

    def _resume_from(self, good: Path | None) -> None:
        if good is not None:
            # what a first start was to ignore of its checkpoint is this run's own now
            more = {"ignore_load_lr_and_optim": False, "ignore_data_skip": False}
            self._change({"resume_from_checkpoint": str(good), **more})

    def _change(self, changes: Mapping[str, Any]) -> None:
        self.changes |= changes
        self.arguments = self.arguments.replace(**changes)

    def _left(self, without: int | None) -> int:
        """How many processes the next launch may have; takes the device of worker `without` off the list."""
        launch, plan = self.arguments.launch, self.plan
        here = plan.world if plan.device == "cpu" else min(plan.world, device_count(plan.device, os.environ))
        if without is None or plan.world == 1:
            return here
        if plan.device != "cpu":
            devices = launch.devices or tuple(range(plan.world))
            left = tuple(number for worker, number in enumerate(devices) if worker != without)
            self.arguments = self.arguments.replace(devices=left)
        return min(here, plan.world - 1)

    def _shrink(self, left: int) -> str:
        """Compose the plan for `left` processes or fewer; returns it in a few lines.

        Raises:
            ZooError: the model does not run on so few.
        """
        before = self.plan
        # degrees are taken from what was asked for at first: a plan may get back what one in between had to give up
        asked = from_arguments(self._given, self._first_world, before.device)
        request = shrunk(asked, facts(self._found.architecture, self._config, self._found.name), left)
        if request is None:
            raise ZooError(
                f"{left} processes are left, and no plan for them keeps the global batch of {before.global_batch}",
                f"the run had {before.world}",
                "start it again with --resume latest and other degrees",
            )
        self._change(_as_arguments(request))
        launch = replace(
            self.arguments.launch, nproc=request.world, devices=self.arguments.launch.devices[: request.world]
        )
        self.arguments = replace(self.arguments, launch=launch)
        request = from_arguments(self.arguments, request.world, before.device)
        self.plan = plan = compose(request, self._found.architecture, self._config, self._found.name)
        was = f"was micro {before.micro_batch} x accumulate {before.accumulate} x replicas {before.replicas}"
        gone = f"processes  {plan.world} instead of {before.world}" + (
            f", of {left} that are left: with more the plan or the global batch would be another" * (plan.world < left)
        )
        described = plan.describe(stages=False, task=self.arguments.task)
        return f"{gone}\n{described}\n           the global batch stays: {was}"


def _as_arguments(request: Request) -> dict[str, Any]:
    """The arguments that ask for `request`, whatever the command line said."""
    return {
        "tensor_parallel_degree": request.tensor,
        "pipeline_parallel_degree": request.pipeline,
        "sharding": f"stage{request.sharding_stage}" + (" offload" if request.offload else "")
        if request.sharding_stage
        else "",
        "sharding_parallel_degree": request.sharding or 1,
        "data_parallel_degree": -1,
        "expert_parallel_degree": request.expert,
        "virtual_pp_degree": request.virtual_stages,
        "pipeline_cuts": request.pipeline_cuts,
        "sequence_parallel": request.sequence_parallel,
        "per_device_train_batch_size": request.micro_batch,
        "gradient_accumulation_steps": request.accumulate,
        "global_batch_size": None,
        "local_batch_size": None,
    }
