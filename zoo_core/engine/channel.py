"""Words between all processes of a run, apart from what training itself sends.

The rendezvous store serves one thread at a time, ends with rank 0, and each of its answers takes 40 ms; gloo and NCCL
belong to the step. So ranks have sockets of their own: every rank is connected with rank 0. What the main threads say
goes over one channel, and saving, which may go on in a thread beside the steps, has another. A process that dies is
noticed at once, because the kernel closes its socket; a machine that is gone, by TCP's keepalive.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from zoo_core.errors import MachineError

__all__ = ["Channel"]

_CONNECT = 120.0
"""Seconds within which all ranks must have connected: they come from the same step."""

_GONE = "it was killed, its machine was lost, or it met an error that is in its log"


class Channel:
    """Sockets between rank 0 and all others; used by one thread of each process at a time.

    Args:
        rank: of `world`.
        publish: gives a text to all ranks and returns everybody's in rank order; called once.

    Raises:
        MachineError: a rank cannot be reached.
    """

    def __init__(self, rank: int, world: int, publish: Callable[[str], Sequence[str]]) -> None:
        self._rank, self._world = rank, world
        self._peers: dict[int, socket.socket] = {}
        if world == 1:
            return
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rsplit(":", 1)[0]
        if rank == 0:
            token = secrets.token_hex(16)
            with socket.create_server((host, 0), backlog=world) as server:
                publish(f"{host} {server.getsockname()[1]} {token}")
                self._accept(server, token)
        else:
            there, port, token = publish("-")[0].split()
            try:
                peer = socket.create_connection((there, int(port)), _CONNECT)
                _tell(peer, f"{token} {rank}")
            except OSError as error:
                raise MachineError(
                    f"rank {rank} cannot reach rank 0 at {there}:{port}",
                    str(error),
                    "open the ports between the machines",
                ) from error
            self._peers[0] = _kept_alive(peer)

    def _accept(self, server: socket.socket, token: str) -> None:
        server.settimeout(_CONNECT)
        while len(self._peers) < self._world - 1:
            try:
                peer, _ = server.accept()
            except TimeoutError as error:
                missing = [rank for rank in range(1, self._world) if rank not in self._peers]
                raise MachineError(
                    f"rank {missing[0]} did not connect to rank 0",
                    f"{_CONNECT:.0f} s went by; {len(missing)} ranks are missing",
                    "see their logs; open the ports between the machines",
                ) from error
            peer.settimeout(_CONNECT)
            try:
                given, _, rank = _hear(peer, 100).partition(" ")
            except OSError:
                peer.close()
                continue
            if hmac.compare_digest(given.encode(), token.encode()) and rank.isdigit():
                self._peers[int(rank)] = _kept_alive(peer)
            else:
                peer.close()

    def exchange(self, text: str) -> list[str]:
        """Give `text` to all ranks and return everybody's in rank order; waits as long as every rank is alive.

        Raises:
            MachineError: a rank has ended; on every rank that is left, with the same words.
        """
        if self._world == 1:
            return [text]
        if self._rank == 0:
            return self._gather(text)
        try:
            _tell(self._peers[0], text)
            answer = json.loads(_hear(self._peers[0]))
        except OSError as error:
            raise MachineError("rank 0 has ended", _GONE, "") from error
        if "gone" in answer:
            raise MachineError(answer["gone"], _GONE, "")
        return list(answer["all"])

    def _gather(self, text: str) -> list[str]:
        told, gone = {0: text}, []
        for rank in range(1, self._world):
            try:
                told[rank] = _hear(self._peers[rank])
            except OSError:
                gone.append(rank)
        everyone = [told[rank] for rank in sorted(told)]
        what = "rank " + ", ".join(map(str, gone)) + " has ended"
        answer = json.dumps({"gone": what} if gone else {"all": everyone})
        for peer in self._peers.values():
            # a rank that ended since it spoke is noticed when it does not speak the next time
            with suppress(OSError):
                _tell(peer, answer)
        if gone:
            raise MachineError(what, _GONE, "")
        return everyone

    def close(self) -> None:
        """Close the sockets."""
        while self._peers:
            self._peers.popitem()[1].close()


def _kept_alive(peer: socket.socket) -> socket.socket:
    """Wait without a limit, but notice within a minute or two when the other machine is gone."""
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 90_000)):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peer


def _tell(peer: socket.socket, text: str) -> None:
    message = text.encode()
    peer.sendall(struct.pack("<q", len(message)) + message)


def _hear(peer: socket.socket, most: int = 1 << 40) -> str:
    (size,) = struct.unpack("<q", _exactly(peer, 8))
    if not 0 <= size <= most:
        raise ConnectionResetError("the other end is not a rank of this run")
    return _exactly(peer, size).decode()


def _exactly(peer: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = peer.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionResetError("the other end has closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
