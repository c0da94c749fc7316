"""Work in the background, and the sockets over which ranks talk while it goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zoo_core.checkpoint import Background
from zoo_core.engine.channel import Channel
from zoo_core.errors import CheckpointError, MachineError


def test_one_piece_of_work_at_a_time():
    background, order, go = Background(), [], threading.Event()
    background.start(lambda: (go.wait(10), order.append(1)))
    assert background.busy and not background.failed and order == []
    threading.Timer(0.05, go.set).start()
    background.start(lambda: order.append(2))
    assert order[0] == 1  # the second was not begun before the first had ended
    background.wait()
    assert order == [1, 2] and not background.busy
    background.wait()


def test_a_failure_waits_until_it_is_asked_for():
    background, order = Background(), []

    def fail():
        raise CheckpointError("no room")

    background.start(fail)
    while background.busy:
        time.sleep(0.001)
    assert background.failed
    with pytest.raises(CheckpointError, match="no room"):
        background.start(lambda: order.append(1))
    assert order == [] and not background.failed
    background.wait()
    background.start(lambda: order.append(2))
    background.wait()
    assert order == [2]


def opened(world):
    """A channel for each of `world` ranks, in threads of this process."""
    board, gate = [""] * world, threading.Barrier(world, timeout=20)

    def publish(rank, text):
        board[rank] = text
        gate.wait()
        return list(board)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: Channel(rank, world, lambda text: publish(rank, text)), range(world)))


def test_everybody_hears_everybody():
    channels = opened(4)
    with ThreadPoolExecutor(4) as pool:
        for turn in range(20):
            texts = [f"{turn} of {rank} " + "x" * (100_000 * (turn == 3)) for rank in range(4)]
            assert list(pool.map(lambda rank, t=texts: channels[rank].exchange(t[rank]), range(4))) == [texts] * 4
    for channel in channels:
        channel.close()
    assert Channel(0, 1, lambda text: [text]).exchange("alone") == ["alone"]


@pytest.mark.parametrize("gone", [0, 2])
def test_a_rank_that_ends_is_an_error_on_all_others(gone):
    channels = opened(4)
    channels[gone].close()

    def one(rank):
        try:
            return channels[rank].exchange("here")
        except MachineError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(one, [rank for rank in range(4) if rank != gone]))
    assert [error.what for error in found] == [f"rank {gone} has ended"] * 3
    assert "killed" in found[0].why


def test_a_process_that_is_killed_is_noticed_at_once():
    board, told = [""] * 2, os.pipe()
    child = 0

    def publish(text):
        nonlocal child
        board[0] = text
        child = os.fork()
        if child == 0:
            try:
                Channel(1, 2, lambda _: board).exchange("first")
                os.write(told[1], b"x")
                time.sleep(60)
            finally:
                os._exit(0)
        return board

    channel = Channel(0, 2, publish)
    assert channel.exchange("first") == ["first", "first"]
    os.read(told[0], 1)
    threading.Timer(0.1, os.kill, (child, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(MachineError, match="rank 1 has ended"):
        channel.exchange("second")
    assert time.monotonic() - began < 5
    os.waitpid(child, 0)


def test_strangers_are_not_let_in():
    import socket

    board = [""] * 2
    ready = threading.Barrier(2, timeout=20)

    def first(text):
        board[0] = text
        host, port, _ = text.split()
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x05\0\0\0\0\0\0\0abc 1", b""):
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(greeting)
        ready.wait()
        return board

    def second(text):
        ready.wait()
        return board

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(Channel, 0, 2, first), pool.submit(Channel, 1, 2, second)]
        channels = [one.result(20) for one in found]
        heard = [pool.submit(channels[rank].exchange, str(rank)) for rank in range(2)]
        assert [one.result(20) for one in heard] == [["0", "1"]] * 2
