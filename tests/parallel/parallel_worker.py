"""One process of a launch: runs a list of tasks one after the other, each on a mesh of its own.

    parallel_worker.py TASKS.json OUT

A task is `{"id", "model", "layout", "recompute", "runs": {NAME: arguments of `Task._train`}}`, and perhaps `"lora"`,
the adapters that are trained, or `"prefix"`, or `"qat"`, how weights and inputs are rounded. What it found goes to
`OUT/ID/result.json`, and to `OUT/ID/NAME` the checkpoints and logits that were asked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parallel_cases as cases

from zoo_core.checkpoint import Reader
from zoo_core.checkpoint.names import ADAPTERS, PREFIX
from zoo_core.engine.auto import engine_for
from zoo_core.engine.build import from_both, from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.engine.parts import Parts
from zoo_core.engine.qat import QatSpec
from zoo_core.engine.state import from_checkpoint, load_states, save
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter, with_adapters, with_prefix
from zoo_core.plan import Plan, Request, compose
from zoo_core.registry import registry
from zoo_ops import set_dropout_state

SEED = 7


_meshes: dict[str, Mesh] = {}


def mesh_of(layout: str, plan: Plan) -> Mesh:
    """The mesh of a layout, kept as long as the layout does not change."""
    if layout not in _meshes:
        _meshes.clear()
        _meshes[layout] = make_mesh(plan)
    return replace(_meshes[layout], plan=plan)


class Task:
    """A model on a mesh."""

    def __init__(self, task: dict[str, Any], out: Path) -> None:
        self.task, self.folder = task, out / task["id"]
        name, changes = cases.MODELS[task["model"]]
        found = registry().find(name)
        self.architecture = found.architecture
        self.prompt = found.architecture.family in cases.PROMPTED and "2" not in task["model"]
        self.config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], **changes})
        self.layout = cases.LAYOUTS[task["layout"]]
        request = Request(
            world=self.layout.world,
            micro_batch=self.layout.micro,
            accumulate=self.layout.accumulate,
            sequence=cases.SEQUENCE,
            recompute=task["recompute"],
            **self.layout.degrees,
        )
        plan = compose(request, self.architecture, self.config)
        assert plan.replicas == self.layout.replicas and plan.global_batch == cases.SAMPLES
        self.mesh = mesh_of(task["layout"], plan)
        self.lora = LoraSpec.from_dict(task["lora"]) if "lora" in task else None
        self.prefix = PrefixSpec.from_dict(task["prefix"]) if "prefix" in task else None
        self.qat = QatSpec(**task["qat"]) if "qat" in task else None

    def engine(self, epsilon: float | None, folder: Path | None = None, **more: Any) -> Engine:
        """Build from the seed, or from a checkpoint with its optimizer states."""
        settings = None
        if epsilon is not None:
            plus = self.lora.plus if self.lora is not None else 1.0
            settings = OptimizerSettings(epsilon=epsilon, weight_decay=0.1, max_grad_norm=cases.CLIP, lora_plus=plus)
        mesh, more = self.mesh, {**more, "lora": self.lora, "prefix": self.prefix, "qat": self.qat}
        source = from_seed(SEED, self.config, *mesh.cut)
        if folder is None:
            return engine_for(mesh.plan, Engine)(
                mesh, self.architecture, self.config, source, settings=settings, **more
            )
        table, group = self.architecture.table(self.config), ""
        if self.lora is not None:
            table, group = with_adapters(table, self.lora), ADAPTERS
        if self.prefix is not None:
            table, group = (
                with_prefix(table, self.architecture.pipe_layers(self.config), self.config, self.prefix),
                PREFIX,
            )
        with Reader(folder, table) as reader:
            saved = from_checkpoint(reader, mesh, group=group)
            source = from_both(source, saved) if group else saved
            engine = engine_for(mesh.plan, Engine)(
                mesh, self.architecture, self.config, source, settings=settings, **more
            )
            load_states(engine, reader)
        return engine

    def batches(self, step: int, count: int = cases.SAMPLES) -> list[dict[str, np.ndarray]]:
        fields = cases.samples(step, self.config.vocab_size, count, self.prompt)
        return cases.micro_batches(fields, self.layout, self.mesh.replica)

    def run(self) -> dict[str, Any]:
        """Make the task's runs one after the other; return what each gave."""
        return {name: self._train(name, **wanted) for name, wanted in self.task["runs"].items()}

    def _train(
        self,
        name: str,
        epsilon: float,
        first: int = 0,
        last: int | None = None,
        load: str = "",
        resave: bool = False,
        rate: float = 1.0,
        save_at: Sequence[int] = (),
        evaluate_at: Sequence[int] = (),
        logits: bool = False,
    ) -> dict[str, Any]:
        """Take steps `first` to `last`, by default the model's last.

        Args:
            rate: multiplies the learning rate.
            load: the checkpoint to start from instead of the seed; `resave` saves it again before the first step.
            logits: save the logits of the last checkpoint, read back.
        """
        folder, last = self.folder / name, last or cases.steps_of(self.task["model"])
        engine = self.engine(epsilon, Path(load) if load else None)
        # tests/checkpoint simulates ranks by this
        assert engine.held.keys() == set(Parts(self.mesh.plan, self.mesh.rank, engine.table).names())
        frozen = self._frozen(engine)
        if resave:
            save(engine, folder / "resaved", first, state={})
        steps, evaluations = [], []
        for step in range(first, last):
            set_dropout_state(SEED, step)
            result = engine.train_step(self.batches(step), cases.learning_rate(step) * rate)
            steps.append((result.loss, result.grad_norm, result.tokens))
            if step + 1 in save_at:
                save(engine, folder, step + 1, state={})
            if step + 1 in evaluate_at:
                # more micro batches than a step has, so that a schedule runs twice, the second time not full
                evaluations.append(engine.evaluate(self.batches(98) + self.batches(99, cases.SAMPLES // 2)))
        for key, now in self._frozen(engine).items():
            np.testing.assert_array_equal(now, frozen[key], err_msg=key)
        if logits:
            self._logits(folder, last)
        return {"steps": steps, "evaluations": evaluations}

    def _frozen(self, engine: Engine) -> dict[str, np.ndarray]:
        """What must not change beside adapters, with its values."""
        if self.lora is None and self.prefix is None:
            return {}
        assert not [n for n, held in engine.held.items() if is_adapter(n) == held.tensor.stop_gradient]
        return {n: engine.updater.weight(n).numpy().copy() for n in engine.held if not is_adapter(n)}

    def _logits(self, folder: Path, step: int) -> None:
        """Read the checkpoint of a step back, without an optimizer, and run it."""
        saved = folder / f"checkpoint-{step}"
        logits = self.engine(None, saved, gather_logits=True).logits(
            cases.samples(97, self.config.vocab_size, 2, self.prompt)
        )
        assert (logits is not None) == self.mesh.is_last_stage
        if logits is not None and self.mesh.rank == self.mesh.plan.world - 1:
            np.save(folder / "logits.npy", logits.numpy())


def main(tasks: Path, out: Path) -> None:
    for task in json.loads(tasks.read_text(encoding="utf-8")):
        started = time.monotonic()
        runner = Task(task, out)
        rank, last = runner.mesh.rank, runner.mesh.plan.world - 1
        runner.folder.mkdir(parents=True, exist_ok=True)
        runner.mesh.barrier()
        ready = time.monotonic()
        print(f"rank {rank} starts {task['id']}", flush=True)
        found = runner.run()
        if rank == last:
            result = runner.folder / "result.json"
            seconds = [ready - started, time.monotonic() - ready]
            result.with_suffix(".part").write_text(json.dumps({**found, "seconds": seconds}), encoding="utf-8")
            result.with_suffix(".part").rename(result)
        runner.mesh.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
