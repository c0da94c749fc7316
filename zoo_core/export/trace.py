"""The programs of a model as files, traced by `paddle.jit.to_static`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from zoo_core.engine.engine import Engine
from zoo_core.errors import ConfigError, ZooError
from zoo_core.export.spec import MODEL, Exported
from zoo_core.replay.tracing import TracedModel, as_traced, inputs_of

__all__ = ["save_programs"]


class _Pass(nn.Layer):  # type: ignore[misc]
    """One program over an engine's layers."""

    def __init__(self, engine: Engine, spec: Exported, decodes: bool) -> None:
        super().__init__()
        self.model = engine.layers
        self.traced, self.decodes = TracedModel(engine, spec), decodes
        self._stubs: dict[str, Tensor] = {}

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, state: list[Tensor]) -> list[Tensor]:
        return _as_it_is(self, ids, positions, mask, state)  # type: ignore[no-any-return]

    def to_static_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What `jit.save` writes: the weights by name, or, after `leave_out_weights`, a number in the place of each."""
        return self._stubs or super().to_static_state_dict(*args, **kwargs)

    def leave_out_weights(self) -> None:
        """Let `jit.save` write no weights: all programs have the same, and one file is enough."""
        self._stubs = {name: _stub(tensor.name) for name, tensor in super().to_static_state_dict().items()}


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _as_it_is(own: _Pass, ids: Tensor, positions: Tensor, mask: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Run the pass without a translation of its Python: all its branches are over numbers."""
    read = own.traced
    return read.decode(ids, positions, mask, state) if own.decodes else read.prefill(ids, positions, mask)


def _stub(name: str) -> Tensor:
    tensor = paddle.zeros([1])
    tensor.name = name
    return tensor


def save_programs(engine: Engine, spec: Exported, folder: Path, say: Callable[[str], None]) -> None:
    """Write the programs and, once, the weights.

    The files are what `paddle.jit.load(folder / "model")` takes, one method a program.

    Raises:
        ConfigError: the model does things that cannot be traced.
        OSError: the disk is full, say.
    """
    kinds = [(False, size) for size in spec.prefill] + [(True, size) for size in spec.decode]
    weights: list[str] = []
    with as_traced(engine):
        for decodes, size in kinds:
            name = f"{'decode' if decodes else 'prefill'}_{size}"
            say(f"tracing {name}")
            specs = inputs_of(spec, *((spec.batch_size, 1, size) if decodes else (1, size, 0)))
            inputs = [*specs[:3], specs[3:]]
            layer = _Pass(engine, spec, decodes)
            layer.eval()
            if weights:
                layer.leave_out_weights()
            used = _save(layer, inputs, folder / f"{MODEL}.{name}", name)
            if weights and used != weights:
                raise ConfigError(
                    "this model cannot be exported", f"{name} has other weights than the first program", "report it"
                )
            if not weights:
                (folder / f"{MODEL}.{name}.pdiparams").rename(folder / f"{MODEL}.pdiparams")
            weights = used
    # `jit.load` wants a program of the plain name: it is that of the widest window.
    last = folder / f"{MODEL}.{name}.json"
    (folder / f"{MODEL}.json").write_bytes(last.read_bytes())
    for extra in [*folder.glob(f"{MODEL}.*.pdiparams"), *folder.glob("*.info")]:
        extra.unlink()


def _save(layer: _Pass, inputs: list[Any], path: Path, name: str) -> list[str]:
    """Trace and save one program; returns the names of its weights, in the order of the file."""
    try:
        static = paddle.jit.to_static(layer, input_spec=inputs, full_graph=True)
        program = static.forward.concrete_program
    except ZooError:
        raise
    except Exception as error:
        raise ConfigError(
            "this model cannot be traced",
            f"{name} of {MODEL}: its code asks for what a tensor holds ({_first_line(error)})",
            "a shorter --max_length may do; else run it without exporting it",
        ) from error
    # An input that this model does not read (its positions, say) is one all the same.
    paddle.jit.save(static, str(path), skip_prune_program=True)
    return sorted(tensor.name for tensor in program.parameters[0])


def _first_line(error: Exception) -> str:
    """What went wrong: Paddle puts the code around it in front, and advice after it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if re.match(r"\w*Error: ", line)), type(error).__name__)
