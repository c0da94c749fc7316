"""What layers are given so that their tensors may lie over a mesh; their code stays that of one card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paddle.distributed as dist
from paddle import nn

from zoo_core.engine.auto.moving import REPLICA, TENSOR, as_global, as_local, move, placed
from zoo_core.engine.mesh import Mesh
from zoo_core.layout import Column, FusedColumn, Row, Rule, Vocab
from zoo_ops import LMHead, parallel

__all__ = ["LOCAL", "Dresser"]

LOCAL = "zoo_core.engine.auto.local"
"""A placed batch remembers this rank's own rows by it."""


class Dresser:
    """Places parameters, and moves activations where the layers around them need them.

    Args:
        over: the mesh, its axes in the order of `TENSOR` and `REPLICA`.
        mesh: the degrees, and this rank's place.
        table: rows as the plugin has them, adapters included: they say what a layer does to its input.
        cuts: the dim along which the replicas cut a parameter, by its local shape and the dim that is taken, or
            `None`, where the sharding stage cuts parameters at all.
    """

    def __init__(
        self,
        over: Any,
        mesh: Mesh,
        table: Mapping[str, Rule],
        cuts: Callable[[tuple[int, ...], int | None, int], int | None] | None,
    ) -> None:
        self._over, self._plan, self._replica = over, mesh.plan, mesh.replica
        self._table, self._cuts = table, cuts
        self._between = 1 if mesh.plan.sequence_parallel and mesh.plan.tensor > 1 else None

    def place(self, rule: Rule, tensor: Any) -> Any:
        """Return a parameter over the mesh, of which `tensor` is what this rank of the tensor axis has.

        A buffer, which every rank has whole, stays as it is.
        """
        if rule.buffer:
            return tensor
        dim = rule.dim if self._plan.tensor > 1 else None
        shared = None
        if self._cuts is not None:
            shared = self._cuts(tuple(tensor.shape), dim, self._plan.replicas)
        mine = tensor.detach()
        if shared is not None:
            size = tensor.shape[shared] // self._plan.replicas
            mine = mine.slice([shared], [self._replica * size], [(self._replica + 1) * size]).contiguous()
        found = dist.auto_parallel.api.dtensor_from_local(mine, self._over, placed(dim, shared))
        found.name, found.stop_gradient = tensor.name, tensor.stop_gradient
        found.is_distributed = found.no_sync = True  # fleet, where it runs the stages, broadcasts nothing
        return found

    def batch_placements(self) -> list[Any]:
        """How the fields of a batch lie: each replica has its rows."""
        return placed(None, 0 if self._plan.replicas > 1 else None)

    def arriving(self, x_BSH: Any) -> Any:
        """Put together what each rank has of the hidden states that the stage before sent."""
        return as_global(x_BSH, self._over, placed(self._between, 0 if self._plan.replicas > 1 else None))

    def departing(self, x_BSH: Any) -> Any:
        """Return what this rank sends on of hidden states."""
        x_BSH = move(x_BSH, REPLICA, 0 if self._plan.replicas > 1 else None)
        return as_local(move(x_BSH, TENSOR, self._between), self._over)

    def dress(self, module: nn.Layer, names: Mapping[str, str]) -> None:
        """Let a module's input be whole where its columns are, and its output be summed where its rows are.

        Args:
            names: single-card names of the module's own parameters.
        """
        if self._plan.tensor > 1:
            rule = self._table.get(names.get("weight", ""))
            if isinstance(module, nn.Embedding) and isinstance(rule, Vocab):
                module.register_forward_post_hook(lambda layer, given, out: move(out, TENSOR, self._between))
            elif isinstance(rule, Column | FusedColumn) or isinstance(module, LMHead):
                module.register_forward_pre_hook(lambda layer, given: (move(given[0], TENSOR, None), *given[1:]))
                if isinstance(rule, FusedColumn):
                    # its parts lie across the cuts: whoever takes them apart needs the whole
                    module.register_forward_post_hook(lambda layer, given, out: move(out, TENSOR, None))
            elif isinstance(rule, Row):
                module.register_forward_post_hook(lambda layer, given, out: move(out, TENSOR, self._between))
        if self._cuts is not None:
            _with_parameters(module, [module], lambda tensor: move(tensor, REPLICA, None))

    def finish(self, layer: nn.Layer, prefix: str, is_block: bool) -> None:
        """Let a layer of the pipeline run as on one card; what Paddle has no rules for runs on plain tensors."""
        names = [".".join(filter(None, (prefix, path, own))) for path, sub in layer.named_sublayers(include_self=True)
                 for own in sub._parameters]  # fmt: skip
        rows = {name: self._table[name] for name in names if name in self._table}
        inner = any(isinstance(rule, Column | FusedColumn | Row) for rule in rows.values())
        regions = sorted(_regions(rows, prefix)) if is_block else [""] if inner else []
        for path in regions:
            self._run_locally(_at(layer, path))
        plain = layer.forward

        def forward(*given: Any, **named: Any) -> Any:
            with parallel.placed_by(lambda x: move(x, TENSOR, None), lambda x: move(x, TENSOR, self._between)):
                return plain(*given, **named)

        layer.forward = forward

    def _run_locally(self, module: nn.Layer) -> None:
        """Run a module on this replica's rows, whole on each rank of the tensor axis, with its weights put together.

        Which rows an expert gets, say, is known only when they are there. The ranks of the tensor axis do the same.
        """
        partial = [dist.Replicate(), dist.Partial()]

        def whole(tensor: Any) -> Any:
            return as_local(move(move(tensor, TENSOR, None), REPLICA, None), self._over, partial)

        _with_parameters(module, module.sublayers(include_self=True), whole)
        plain = module.forward

        def forward(x: Any, *given: Any) -> Any:
            x = move(move(x, TENSOR, None), REPLICA, 0 if self._plan.replicas > 1 else None)
            local = [each.once(LOCAL, dict) if hasattr(each, "once") else each for each in given]
            with parallel.placed_by(None, None):
                out = plain(as_local(x, self._over), *local)
            return move(as_global(out, self._over, self.batch_placements()), TENSOR, self._between)

        module.forward = forward


def _regions(rows: Mapping[str, Rule], prefix: str) -> set[str]:
    """The paths, within a layer, of the modules that hold routed experts, and the router and the shared ones too."""
    holders = {r.name.rsplit(f".{r.expert}.", 1)[0].rpartition(".")[0] for r in rows.values() if r.expert is not None}
    return {holder.removeprefix(f"{prefix}.") for holder in holders}


def _at(layer: nn.Layer, path: str) -> nn.Layer:
    for name in filter(None, path.split(".")):
        layer = layer._sub_layers[name]
    return layer


def _with_parameters(module: nn.Layer, owners: list[nn.Layer], change: Callable[[Any], Any]) -> None:
    """Let a module see the parameters of some modules changed while it runs."""
    plain = module.forward

    def forward(*given: Any, **named: Any) -> Any:
        before = [(owner, {n: p for n, p in owner._parameters.items() if p is not None}) for owner in owners]
        made: dict[int, Any] = {}  # a tied parameter is changed once
        for owner, own in before:
            for name, tensor in own.items():
                if id(tensor) not in made:
                    made[id(tensor)] = change(tensor)
                owner._parameters[name] = made[id(tensor)]
        try:
            return plain(*given, **named)
        finally:
            for owner, own in before:
                owner._parameters.update(own)

    module.forward = forward
