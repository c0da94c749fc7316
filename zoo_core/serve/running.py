"""The process: sockets, the servers on one loop, signals, and the way to a quiet end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from zoo_core.errors import MachineError
from zoo_core.serve.scheduler import Scheduler
from zoo_core.serve.site import Site

__all__ = ["Door", "address", "bound", "curl", "is_local", "run_servers"]

_LAST_WORDS = 5.0
"""Seconds that answers have to get out after the model is done."""


@dataclass
class Door:
    """A socket and what answers at it."""

    socket: socket.socket
    app: ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_servers`: there may be two servers, and they end when the model has."""
        yield


def bound(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that listens at an address.

    Args:
        flag: that sets the port, for the message.

    Raises:
        MachineError: the address is taken, or is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, where = found[0]
        own = socket.socket(family, kind, proto)
        try:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(where)
            # Bound alone, another process could still listen there; nobody is answered before the loop runs.
            own.listen(1024)
        except OSError:
            own.close()
            raise
    except OSError as error:
        raise MachineError(
            f"cannot listen at {host}:{port}", error.strerror or str(error), f"choose another {flag} or --host"
        ) from error
    return own


def address(host: str, port: int) -> str:
    """Return host and port as a URL has them; a server that listens everywhere is here, too."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def curl(url: str, model: str, with_key: bool) -> str:
    """Return a command that asks the server something, to be pasted into a shell."""
    key = ' -H "Authorization: Bearer $ZOO_API_KEY"' if with_key else ""
    body = shlex.quote(f'{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 16}}')
    return f"curl {url}/v1/completions -H 'Content-Type: application/json'{key} -d {body}"


def run_servers(doors: Sequence[Door], site: Site, drain_timeout: float, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or SIGINT, then let what waits and runs end, and return the exit status.

    A second signal ends the process at once.

    Args:
        doors: where to serve.
        site: whose scheduler is drained.
        drain_timeout: seconds that waiting and running answers have; then they fail.
        ready: called when all doors are open.
    """
    return asyncio.run(_serve(doors, site, drain_timeout, ready))


async def _serve(doors: Sequence[Door], site: Site, drain_timeout: float, ready: Callable[[], None]) -> int:
    servers = [
        _Server(
            uvicorn.Config(
                door.app, log_level="warning", access_log=False, lifespan="auto", ws="none", server_header=False,
                timeout_keep_alive=30, timeout_graceful_shutdown=int(_LAST_WORDS),
            )
        )
        for door in doors
    ]  # fmt: skip
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, number, told)
    tasks = [asyncio.ensure_future(server.serve([door.socket])) for server, door in zip(servers, doors, strict=True)]
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                task.result()
                return 1
        await asyncio.sleep(0.01)
    ready()
    await told.wait()
    await _drain(site, site.scheduler, drain_timeout)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)
    return 0


def _signalled(number: signal.Signals, told: asyncio.Event) -> None:
    if told.is_set():
        print(f"{number.name} again: ended at once", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(128 + number)
    told.set()


async def _drain(site: Site, scheduler: Scheduler, seconds: float) -> None:
    site.draining = True
    scheduler.drain()
    left = scheduler.waiting + scheduler.running
    if left:
        print(f"shutting down when {left} answers are complete, in {seconds:g} s at most", file=sys.stderr, flush=True)
    if not await asyncio.to_thread(scheduler.wait_idle, seconds):
        left = scheduler.waiting + scheduler.running
        print(f"{left} answers were not complete in time", file=sys.stderr, flush=True)
    await asyncio.to_thread(scheduler.stop, _LAST_WORDS)
