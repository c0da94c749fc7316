"""Model code as programs of fixed shapes, traced by `paddle.jit.to_static`; the model code is the same as ever.

All sizes that model code reads (`cache.length`, `x.shape`) are numbers, so it is run once with symbolic tensors, and
what it does becomes the program. The cache of a program is its input and its output: a decode program takes W columns,
the newest last, and gives W, the oldest gone. Columns that are not in use lie on the left and are hidden by the mask,
as in any batch of rows of unequal length.

Shape legend: B rows, S tokens of a pass, W cached columns, M kv heads, D head width, V vocabulary.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from zoo_core.engine.engine import Engine
from zoo_core.errors import ConfigError, ZooError
from zoo_core.export.spec import MODEL, Exported, Note
from zoo_ops import Batch, after_prefix

__all__ = ["cached_entries", "save_programs"]


class TracedLayerCache:
    """What model code takes for the cache of one layer: a window of columns that is given, and recorded."""

    def __init__(self, k_BWMD: Tensor | None = None, v_BWMD: Tensor | None = None) -> None:
        self.length = 0 if k_BWMD is None else int(k_BWMD.shape[1])
        self.first_length = self.length
        self.notes: dict[str, Tensor] = {}
        self.token_notes: dict[str, Tensor] = {}
        self.k, self.v = k_BWMD, v_BWMD

    def update(self, k_BSMD: Tensor, v_BSMD: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values, [B, W + S, M, D]."""
        if self.k is None or self.v is None:
            self.first_length = int(k_BSMD.shape[1])
            self.k, self.v = k_BSMD, v_BSMD
        else:
            self.k, self.v = paddle.concat([self.k, k_BSMD], axis=1), paddle.concat([self.v, v_BSMD], axis=1)
        self.length += int(k_BSMD.shape[1])
        return self.k, self.v

    def held(self) -> tuple[Tensor, Tensor]:
        """All keys and values; model code has updated them."""
        assert self.k is not None and self.v is not None
        return self.k, self.v


class TracedCache:
    """What model code takes for the cache of all layers."""

    def __init__(self, layers: Sequence[TracedLayerCache]) -> None:
        self._layers = layers

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> TracedLayerCache:
        return self._layers[layer]

    @property
    def length(self) -> int:
        """Columns so far."""
        return max(layer.length for layer in self._layers)


class _Pass(nn.Layer):  # type: ignore[misc]
    """One program over an engine's layers."""

    def __init__(self, engine: Engine, spec: Exported, decodes: bool) -> None:
        super().__init__()
        self.model = engine.layers
        self._stubs: dict[str, Tensor] = {}
        self._prefix = engine.prefix
        self._vocab_size = engine.config.vocab_size
        self.spec, self.decodes = spec, decodes

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, state: list[Tensor]) -> list[Tensor]:
        return _as_it_is(self, ids, positions, mask, state)  # type: ignore[no-any-return]

    def to_static_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What `jit.save` writes: the weights by name, or, after `leave_out_weights`, a number in the place of each."""
        return self._stubs or super().to_static_state_dict(*args, **kwargs)

    def leave_out_weights(self) -> None:
        """Let `jit.save` write no weights: all programs have the same, and one file is enough."""
        self._stubs = {name: _stub(tensor.name) for name, tensor in super().to_static_state_dict().items()}

    def logits(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: TracedCache) -> Tensor:
        """Those after the last column, [B, V]."""
        batch = Batch(ids, position_ids=positions, attention_mask=mask)
        if self._prefix is not None:
            batch = after_prefix(batch, self._prefix.tokens, cache.length)
        out_B1V = self.model.through(None, batch, cache, last_position=True)[:, -1:]
        return out_B1V[:, 0].astype("float32")[:, : self._vocab_size]


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def _as_it_is(own: _Pass, ids: Tensor, positions: Tensor, mask: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Run the pass without a translation of its Python: all its branches are over numbers."""
    found: list[Tensor] = (_decode if own.decodes else _prefill)(own, own.spec, ids, positions, mask, state)
    return found


def _stub(name: str) -> Tensor:
    tensor = paddle.zeros([1])
    tensor.name = name
    return tensor


def _prefill(own: _Pass, spec: Exported, ids: Tensor, positions: Tensor, mask: Tensor, _: Any) -> list[Tensor]:
    cache = TracedCache([TracedLayerCache() for _ in spec.entries])
    logits_BV = own.logits(ids, positions, mask, cache)
    found = [logits_BV]
    for layer in range(len(cache)):
        found += cache[layer].held()
    for note in spec.notes:
        held = cache[note.layers[0]]
        found.append((held.token_notes if note.by_token else held.notes)[note.name])
    return [paddle.assign(tensor) for tensor in found]


def _decode(
    own: _Pass, spec: Exported, ids: Tensor, positions: Tensor, mask: Tensor, state: list[Tensor]
) -> list[Tensor]:
    entries = 2 * len(spec.entries)
    cache = TracedCache([TracedLayerCache(*state[at : at + 2]) for at in range(0, entries, 2)])
    for note, tensor in zip(spec.notes, state[entries:], strict=True):
        for layer in note.layers:
            (cache[layer].token_notes if note.by_token else cache[layer].notes)[note.name] = tensor
    logits_BV = own.logits(ids, positions, mask, cache)
    found = [logits_BV]
    for layer in range(len(cache)):
        found += [entries_BKMD[:, 1:] for entries_BKMD in cache[layer].held()]
    # What is noted of a prompt stays as it is; only what is noted of each token grows.
    return found + [cache[note.layers[0]].token_notes[note.name][:, 1:] for note in spec.notes if note.by_token]


def cached_entries(
    engine: Engine,
) -> tuple[tuple[tuple[tuple[int, int], tuple[int, int]], ...], tuple[Note, ...]]:
    """Find out what the model caches, by reading two tokens: (M, D) of each block's keys and values, and its notes."""
    engine.layers.eval()
    ids_12 = paddle.to_tensor([[0, 1]], dtype="int64")
    blocks = len(engine.new_cache(1, 2))
    cache = TracedCache([TracedLayerCache() for _ in range(blocks)])
    with paddle.no_grad():
        batch = Batch(ids_12, position_ids=ids_12, attention_mask=paddle.ones_like(ids_12))
        if engine.prefix is not None:
            batch = after_prefix(batch, engine.prefix.tokens)
        engine.layers.through(None, batch, cache, last_position=True)
    entries = tuple(
        ((int(k.shape[2]), int(k.shape[3])), (int(v.shape[2]), int(v.shape[3])))
        for k, v in (cache[layer].held() for layer in range(blocks))
    )
    return entries, tuple(_notes(cache))


def _notes(cache: TracedCache) -> Iterator[Note]:
    """The notes, one that several blocks share once."""
    for by_token in (False, True):
        seen: dict[tuple[str, int], tuple[Tensor, list[int]]] = {}
        for layer in range(len(cache)):
            held = cache[layer].token_notes if by_token else cache[layer].notes
            for name, tensor in held.items():
                seen.setdefault((name, id(tensor)), (tensor, []))[1].append(layer)
        for (name, _), (tensor, layers) in seen.items():
            shape = tuple(int(size) for size in tensor.shape[2 if by_token else 1 :])
            yield Note(name, tuple(layers), by_token, shape, str(tensor.dtype).rsplit(".", 1)[-1])


@contextmanager
def _not_trained(engine: Engine) -> Iterator[None]:
    """Let no parameter want a gradient, and all of them be saved, while the model is traced."""
    wanted = [(p, p.stop_gradient) for p in engine.layers.parameters()]
    engine.layers.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for parameter, stops in wanted:
            parameter.stop_gradient = stops


def save_programs(engine: Engine, spec: Exported, folder: Path, say: Callable[[str], None]) -> None:
    """Write the programs and, once, the weights.

    The files are what `paddle.jit.load(folder / "model")` takes, one method a program.

    Raises:
        ConfigError: the model does things that cannot be traced.
        OSError: the disk is full, say.
    """
    kinds = [(False, size) for size in spec.prefill] + [(True, size) for size in spec.decode]
    weights: list[str] = []
    with _not_trained(engine):
        for decodes, size in kinds:
            name = f"{'decode' if decodes else 'prefill'}_{size}"
            say(f"tracing {name}")
            layer = _Pass(engine, spec, decodes)
            layer.eval()
            if weights:
                layer.leave_out_weights()
            used = _save(layer, _inputs(spec, decodes, size), folder / f"{MODEL}.{name}", name)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a traced tensor has not
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


def _inputs(spec: Exported, decodes: bool, size: int) -> list[Any]:
    """What the programs take; only the names are free."""
    B, S = (spec.batch_size, 1) if decodes else (1, size)
    columns = size + 1 if decodes else size
    InputSpec = paddle.static.InputSpec
    state = [
        InputSpec(list(shape), dtype, f"state_{number}")
        for number, (shape, dtype) in enumerate(spec.shapes(B, size) if decodes else ())
    ]
    return [
        InputSpec([B, S], "int64", "ids"), InputSpec([B, S], "int64", "positions"),
        InputSpec([B, columns], "int64", "mask"), state,
    ]  # fmt: skip
