"""What gloo lacks on CPU and fleet expects: the one place where this is bridged. Nothing here is used with NCCL.

Facts, each seen with PaddlePaddle 3.3.1:
- `ProcessGroupGloo` puts the keys of every group unprefixed into one store, so groups read each other's addresses:
  every group gets a store of its own.
- gloo's send and receive are a rendezvous and count all operations of a group: the pipeline's point-to-point traffic
  goes over sockets instead, sent by a thread for each edge, received in order.
- `alltoall` does not exist: tokens travel to their experts over the same sockets.
- every group has a thread that wakes a hundred times a second: a group of the same ranks is made once.
- `reduce_scatter` does not exist: a sum and a slice.
- gloo gives up after 30 s: ranks that may be far apart meet at a `barrier` in the store first.
- all exchanges of a program are of one group, whichever they name: each is made one of all processes.
- `ParallelEnv` has no device id, and the sharding modules assert CUDA.
"""

from __future__ import annotations

import ast
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.base import core
from paddle.distributed import collective, parallel
from paddle.distributed.fleet.meta_parallel.pp_utils import p2p_communication as p2p

from zoo_core.errors import MachineError

__all__ = [
    "activate",
    "all_to_all",
    "before_program",
    "connect_pipeline",
    "drop_empty_buffers",
    "exchange_among_all",
    "is_active",
    "reduce_scatter",
    "sharding_on_cpu",
    "static_engine",
]

_stores: list[Any] = []
_active = False
_edges: _Edges | None = None
_pipeline_connected = False


def is_active() -> bool:
    """Whether this process bridges gloo."""
    return _active


def activate() -> None:
    """Make gloo usable by fleet in this process; call before `fleet.init`.

    Raises:
        MachineError: this Paddle has no longer the private names that are bridged.
    """
    global _active
    if _active:
        return
    missing = [
        name
        for module, name in (
            (collective, "_new_process_group_impl"),
            (parallel, "_new_process_group_impl"),
            (p2p, "_batched_p2p_ops"),
            (p2p, "_p2p_ops"),
            (p2p.SendRecvMeta, "send_meta"),
            (p2p.SendRecvMeta, "recv_meta"),
        )
        if not hasattr(module, name)
    ]
    if missing:
        raise MachineError(
            f"PaddlePaddle {paddle.__version__} cannot run several processes on CPU under zoo",
            "it no longer has " + ", ".join(missing),
            "install paddlepaddle 3.3.x",
        )
    os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    parallel.ParallelEnv._device_id = 0
    original = collective._new_process_group_impl
    for module in (collective, parallel):
        module._new_process_group_impl = _with_own_store(original)
    dist.new_group = _remembered(dist.new_group)
    _active = True


def _own_host() -> str:
    return os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rsplit(":", 1)[0]


def _serve_store() -> tuple[Any, str]:
    """Open a store on a free port; another process may take the port in between, so try again.

    It counts one worker, itself: a store that counts all waits for them before its address can be told.
    """
    host = _own_host()
    for attempt in range(20):
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        try:
            return core.TCPStore(host, port, True, 1, 900), f"{host}:{port}"
        except Exception:
            if attempt == 19:
                raise
            time.sleep(0.05)
    raise AssertionError("unreachable")


def _with_own_store(original: Callable[..., Any]) -> Callable[..., Any]:
    def new_group(
        backend: str, store: Any, rank: int, world_size: int, name: str, *rest: Any, group_id: int = 0, **more: Any
    ) -> Any:
        if backend != "gloo":
            return original(backend, store, rank, world_size, name, *rest, group_id=group_id, **more)
        key = f"zoo/group/{group_id}"
        if rank == 0:
            own, address = _serve_store()
            store.set(key, address)
        else:
            host, port = bytes(store.get(key)).decode().rsplit(":", 1)
            own = core.TCPStore(host, int(port), False, 1, 900)
        _stores.append(own)
        return core.ProcessGroupGloo.create(own, rank, world_size, group_id)

    return new_group


def _remembered(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same ranks are the same group: fleet asks for several of some, and every mesh of a process for its own."""
    known: dict[tuple[int, ...], Any] = {}

    def new_group(ranks: Any = None, *more: Any, **rest: Any) -> Any:
        if ranks is None:
            return original(ranks, *more, **rest)
        key = tuple(sorted(ranks))
        if key not in known:
            known[key] = original(ranks, *more, **rest)
        return known[key]

    return new_group


def reduce_scatter(out: Any, x: Any, group: Any) -> None:
    """`out` becomes this rank's part, along dim 0, of the sum of all ranks' `x`."""
    dist.all_reduce(x, group=group)
    part = out.shape[0]
    paddle.assign(x[group.rank * part : (group.rank + 1) * part], out)


class _Edges:
    """Ordered, one-way byte channels between this rank and others, over sockets.

    A channel (from, to, kind) is opened by its sender at the first message; messages are length-prefixed.
    """

    def __init__(self, rank: int, store: Any) -> None:
        self._rank, self._store = rank, store
        self._out: dict[tuple[int, bytes], queue.SimpleQueue[bytes]] = {}
        self._in: dict[tuple[int, bytes], socket.socket] = {}
        self._arrived = threading.Condition()
        self._server = socket.create_server((_own_host(), 0), backlog=128)
        store.set(f"zoo/edge/{rank}", f"{_own_host()}:{self._server.getsockname()[1]}")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            peer, _ = self._server.accept()
            source, kind = struct.unpack("<qc", _read(peer, 9))
            with self._arrived:
                self._in[source, kind] = peer
                self._arrived.notify_all()

    def _sender(self, address: tuple[str, int], kind: bytes, waiting: queue.SimpleQueue[bytes]) -> None:
        with socket.create_connection(address) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(struct.pack("<qc", self._rank, kind))
            while True:
                message = waiting.get()
                peer.sendall(struct.pack("<q", len(message)))
                peer.sendall(message)

    def send(self, to: int, kind: bytes, message: bytes) -> None:
        if (to, kind) not in self._out:
            # the store serves one thread at a time, so the address is asked for here and not by the sender
            host, port = bytes(self._store.get(f"zoo/edge/{to}")).decode().rsplit(":", 1)
            waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            self._out[to, kind] = waiting
            threading.Thread(target=self._sender, args=((host, int(port)), kind, waiting), daemon=True).start()
        self._out[to, kind].put(message)

    def receive(self, source: int, kind: bytes) -> bytearray:
        with self._arrived:
            while (source, kind) not in self._in:
                self._arrived.wait()
            peer = self._in[source, kind]
        return _read(peer, struct.unpack("<q", _read(peer, 8))[0])


def _read(peer: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view, at = memoryview(buffer), 0
    while at < size:
        got = peer.recv_into(view[at:])
        if got == 0:
            raise ConnectionError("a neighbouring pipeline stage has ended")
        at += got
    return buffer


def _each(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, tuple | list) else [] if tensors is None else [tensors]


def _channels() -> _Edges:
    """This process's channels, opened once however many meshes it makes."""
    global _edges
    if _edges is None:
        _edges = _Edges(dist.get_rank(), core.create_or_get_global_tcp_store())
    return _edges


def _put(tensors: Any, to: int, kind: bytes) -> None:
    for tensor in _each(tensors):
        _channels().send(to, kind, tensor.numpy().tobytes())


def _take(tensors: Any, source: int, kind: bytes) -> None:
    for tensor in _each(tensors):
        values = np.frombuffer(_channels().receive(source, kind), _numpy_dtype(tensor)).reshape(tensor.shape)
        if values.size:
            tensor.get_tensor().set(values, core.CPUPlace())


def all_to_all(received: list[Any], sent: list[Any], group: Any) -> None:
    """Send `sent[i]` to rank i of the group, and fill `received[i]` with what it sent here."""
    for place, to in enumerate(group.ranks):
        if place != group.rank:
            _put(sent[place], to, b"x")
    for place, source in enumerate(group.ranks):
        if place != group.rank:
            _take(received[place], source, b"x")
        elif sent[place].size:
            paddle.assign(sent[place], received[place])


def connect_pipeline() -> None:
    """Let fleet's pipeline schedules talk over sockets instead of gloo; call on every rank after `fleet.init`."""
    global _pipeline_connected
    if _pipeline_connected:
        return
    _pipeline_connected = True
    edges = _channels()

    def exchange(send_prev: Any, recv_prev: Any, send_next: Any, recv_next: Any, hcg: Any) -> list[Any]:
        _put(send_next, hcg._get_p2p_next_rank() if send_next is not None else -1, b"f")
        _put(send_prev, hcg._get_p2p_prev_rank() if send_prev is not None else -1, b"b")
        _take(recv_prev, hcg._get_p2p_prev_rank() if recv_prev is not None else -1, b"f")
        _take(recv_next, hcg._get_p2p_next_rank() if recv_next is not None else -1, b"b")
        return []

    def send_meta(self: Any, tensor: Any, group: Any, reverse: bool = False, broadcast: bool = False) -> None:
        to = p2p._hcg._get_p2p_prev_rank() if reverse else p2p._hcg._get_p2p_next_rank()
        told = [(list(t.shape), p2p.paddle_2_number(t.dtype), bool(t.stop_gradient)) for t in _each(tensor)]
        edges.send(to, b"m", repr((isinstance(tensor, tuple | list), told)).encode())

    def recv_meta(self: Any, group: Any, reverse: bool = False, broadcast: bool = False) -> None:
        source = p2p._hcg._get_p2p_next_rank() if reverse else p2p._hcg._get_p2p_prev_rank()
        several, told = ast.literal_eval(bytes(edges.receive(source, b"m")).decode())
        shapes, dtypes, stops = zip(*told, strict=True)
        keys: Any = (None,) * len(told)
        if not several:
            shapes, dtypes, stops, keys = shapes[0], dtypes[0], stops[0], keys[0]
        self.recv_shape_message, self.recv_dtype_message = shapes, dtypes
        self.recv_stop_gradient, self.recv_key_message = stops, keys

    p2p._batched_p2p_ops = exchange
    p2p._p2p_ops = exchange
    p2p.SendRecvMeta.send_meta = send_meta
    p2p.SendRecvMeta.recv_meta = recv_meta


def _numpy_dtype(tensor: Any) -> Any:
    name = str(tensor.dtype).rsplit(".", 1)[-1]
    return np.dtype("uint16" if name == "bfloat16" else name)


def sharding_on_cpu() -> None:
    """Let fleet's sharding stages 2 and 3 run on CPU; call before constructing them."""
    from paddle.distributed.fleet.meta_parallel.sharding import (
        group_sharded_optimizer_stage2,
        group_sharded_stage3,
        group_sharded_storage,
    )

    answers = SimpleNamespace(is_compiled_with_cuda=lambda: True)

    class Answering:
        def __getattr__(self, name: str) -> Any:
            return getattr(answers, name, None) or getattr(core, name)

    for module in (group_sharded_optimizer_stage2, group_sharded_stage3):
        module.core = Answering()
    group_sharded_optimizer_stage2.paddle = _Seen(paddle, get_device=lambda: "cpu:0")
    group_sharded_storage.cvt_to_device = lambda x, *rest, **more: x
    keep = group_sharded_storage.ParamStorage._add_param_as_view
    if keep.__name__ == "_add_param_as_view":

        def add_param_as_view(self: Any, param: Any, align: Any, convert_gpu: bool = True) -> Any:
            return keep(self, param, align, False)

        group_sharded_storage.ParamStorage._add_param_as_view = add_param_as_view


def drop_empty_buffers(stage2: Any) -> None:
    """Keep fleet's stage 2 from reducing the gradient buffers of size 0 that it has on CPU."""
    setup = stage2._setup_use_grad_storage

    def without_buffers() -> None:
        setup()
        stage2._grad_storages.clear()
        stage2._grad_storage_list.clear()

    stage2._setup_use_grad_storage = without_buffers


@contextmanager
def static_engine() -> Iterator[None]:
    """Let Paddle's static engine build a program here, for `exchange_among_all` to make ready for gloo."""
    if not _active:
        yield
        return
    from paddle.distributed.auto_parallel.static import process_group

    groups, legacy = process_group.ProcessGroup, paddle._legacy_C_ops
    plain = groups.instantiate
    groups.instantiate = lambda group: None
    paddle._legacy_C_ops = _Seen(legacy, barrier=lambda *given: None)
    try:
        yield
    finally:
        groups.instantiate, paddle._legacy_C_ops = plain, legacy


def exchange_among_all(program: Any) -> None:
    """Let every exchange of a program be one of all processes, of which each takes what its own group has given.

    On CPU all operations of a program use one and the same group, whichever they name, and there is no reduce_scatter.
    All processes run the same program, so all come to each exchange.
    """
    if not _active:
        return
    from paddle.distributed.auto_parallel.static.process_group import get_process_group

    world = dist.get_world_size()
    with _static_mode(), paddle.static.program_guard(program):
        for operation in program.global_block().ops:
            attributes = operation.attrs()
            if "ring_id" not in attributes:
                continue
            name = operation.name().removeprefix("pd_op.").removesuffix("_")
            if name not in _EXCHANGES or attributes.get("reduce_type", 0) != int(dist.ReduceType.kRedSum):
                raise MachineError("this plan cannot run on CPU", f"its program has {operation.name()}", "take another")
            paddle.pir.set_insertion_point(operation)
            given = operation.operand_source(0)
            ranks = sorted(get_process_group(attributes["ring_id"]).ranks)
            rows = given if given.shape else paddle.reshape(given, [1])
            every = paddle.split(paddle._C_ops.all_gather(rows, 0, world), world)
            out = _EXCHANGES[name]([every[rank] for rank in ranks], ranks.index(dist.get_rank()))
            operation.result(0).replace_all_uses_with(out if given.shape else paddle.reshape(out, []))
            operation.erase()


@contextmanager
def _static_mode() -> Iterator[None]:
    paddle.enable_static()
    try:
        yield
    finally:
        paddle.disable_static()


def before_program() -> None:
    """Let the exchanges of a program be among all processes, of whatever group the last exchange outside it was.

    On CPU an operation takes the group of the last exchange of placed tensors, and nothing but one sets it.
    """
    if _active:
        everybody = dist.ProcessMesh(list(range(dist.get_world_size())))
        part = dist.auto_parallel.api.dtensor_from_local(paddle.zeros([1]), everybody, [dist.Partial()])
        dist.reshard(part, everybody, [dist.Replicate()])


_EXCHANGES: dict[str, Callable[[list[Any], int], Any]] = {
    "all_reduce": lambda parts, place: paddle.add_n(parts),
    "all_gather": lambda parts, place: paddle.concat(parts),
    "reduce_scatter": lambda parts, place: paddle.split(paddle.add_n(parts), len(parts))[place],
}


class _Seen:
    """A module with some names answered otherwise."""

    def __init__(self, module: Any, **answers: Any) -> None:
        self.__dict__.update(answers, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
