"""The file of answers: whole lines after any kill, the same bytes in the end, and nobody else's answers replaced."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zoo_core.errors import ConfigError, DataError, ZooError
from zoo_core.predict.answering import WINDOW, Asked, Sharing, answer_lines, write_answers
from zoo_core.predict.questions import Question
from zoo_core.predict.record import DIGEST, Record, State, part_of, standing

TOTAL = 200


class Numbers:
    """Questions whose prompts are runs of their number, of unequal length."""

    def __len__(self):
        return TOTAL

    def question(self, number):
        return Question((), f"question {number} 光")

    def ids(self, number):
        return [number] * (1 + number * 7 % 13), 0

    def room(self, prompt):
        return 20 - prompt


def spelt(asked: list[Asked], wait: float = 0.0) -> list[list[str]]:
    time.sleep(wait)
    return [[f"{one.ids} {one.most}", "twice"] for one in asked]


def predict(path, wait=0.0, settings=None, **more):
    record = Record(path, settings or {"a": 1}, TOTAL)
    try:
        done = write_answers(Numbers(), record, lambda asked: spelt(asked, wait), 1, record.done, **more)
        record.finish()
    finally:
        record.close()
    return done


@pytest.fixture
def whole(tmp_path):
    predict(tmp_path / "whole.json")
    return (tmp_path / "whole.json").read_bytes()


def test_answers_stand_in_the_order_of_the_questions(whole):
    lines = [json.loads(line) for line in whole.decode().splitlines()]
    assert [line["output"] for line in lines[::2]] == [
        f"{[n] * (1 + n * 7 % 13)} {19 - n * 7 % 13}" for n in range(TOTAL)
    ]
    assert set(lines[0]) == {"src", "tgt", "output"} and lines[1] == {**lines[0], "output": "twice"}
    assert "光".encode() in whole


def test_two_replicas_share_each_window(tmp_path, whole):
    path, seen = tmp_path / "shared.json", {0: [], 1: []}
    barrier, told = threading.Barrier(2, timeout=30), [None, None]

    def replica(number):
        def exchange(make):
            told[number] = make()
            barrier.wait()
            found = list(told)
            barrier.wait()
            return found

        def answer(asked):
            seen[number].append([len(one.ids) for one in asked])
            return spelt(asked)

        sharing = Sharing(number, 2, True, exchange)
        assert write_answers(Numbers(), record if number == 0 else None, answer, 1, 0, sharing) == TOTAL

    record = Record(path, {"a": 1}, TOTAL)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(replica, (0, 1)))
    record.finish()
    record.close()
    assert path.read_bytes() == whole
    for windows in seen.values():
        assert [len(lengths) for lengths in windows] == [WINDOW] * 6 + [TOTAL // 2 - 6 * WINDOW]
        assert all(lengths == sorted(lengths) for lengths in windows)


def test_kills_lose_no_line_and_change_none(tmp_path, whole):
    path, dice, kills = tmp_path / "out.json", random.Random(3), 0
    while not path.exists():
        child = os.fork()
        if child == 0:
            try:
                predict(path, 0.005)
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
        state = standing(path, {"a": 1}, TOTAL)
        if part_of(path).exists():
            kept = part_of(path).read_bytes()[: state.size]
            assert (
                whole.startswith(kept)
                and (not kept or kept.endswith(b"\n"))
                and state.done % WINDOW in (0, TOTAL % WINDOW)
            )
        assert kills < 500
    assert kills >= 3 and path.read_bytes() == whole and not part_of(path).exists()


def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path, whole):
    path = tmp_path / "out.json"
    assert predict(path, going=lambda done: done < 50) == 4 * WINDOW
    assert not path.exists() and standing(path, {"a": 1}, TOTAL).done == 4 * WINDOW
    with part_of(path).open("ab") as stream:
        stream.write(b'{"src": "quest')
    assert predict(path) == TOTAL and path.read_bytes() == whole


def test_killed_between_the_last_answer_and_the_end(tmp_path, whole):
    path = tmp_path / "out.json"
    record = Record(path, {"a": 1}, TOTAL)
    write_answers(Numbers(), record, spelt, 1)
    record.close()
    assert standing(path, {"a": 1}, TOTAL).complete and not path.exists()
    assert predict(path) == TOTAL and path.read_bytes() == whole
    assert predict(path) == TOTAL and path.read_bytes() == whole and not part_of(path).exists(), (
        "again: nothing is done"
    )


def test_other_settings_are_refused_with_what_differs(tmp_path):
    path, digest = tmp_path / "out.json", f"{DIGEST}data_file"
    predict(path, settings={"a": 1, "b": "x", digest: "0"}, going=lambda done: done < 50)
    with pytest.raises(ConfigError) as error:
        standing(path, {"a": 2, "b": None, digest: "1"}, TOTAL)
    assert error.value.why == "a is 1 there, 2 here; b is x there, not set here; what is in data_file has changed"
    assert "was begun" in error.value.what and "--overwrite_output" in error.value.todo
    assert standing(path, {"a": 2}, TOTAL, overwrite=True) == State({"a": 2}, TOTAL)
    part_of(path).unlink()
    assert standing(path, {"a": 2}, TOTAL).done == 0, "whoever deletes the answers begins anew"


def test_a_file_of_another_kind_stays(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        Record(path, {}, 1)
    with pytest.raises(ConfigError, match="is a folder"):
        standing(tmp_path, {}, 1)
    assert path.read_text() == "mine"
    record = Record(path, {}, 1, overwrite=True)
    assert path.read_text() == "mine", "until all answers are there"
    record.add(["{}"], 1)
    record.finish()
    record.close()
    assert path.read_text() == "{}\n"


def test_two_at_once_and_a_damaged_state(tmp_path):
    path = tmp_path / "out.json"
    record = Record(path, {}, 2)
    with pytest.raises(ConfigError, match="another process"):
        Record(path, {}, 2)
    record.close()
    Record(path, {}, 2).close()
    (tmp_path / "out.json.state").write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        standing(path, {}, 2)


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    path, write = tmp_path / "out.json", os.write

    def full(handle, content):
        if len(content) > 3000:  # some of it fits
            return write(handle, bytes(content[:100]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ZooError, match="No space left"):
            predict(path)
    assert standing(path, {"a": 1}, TOTAL).done == 0
    assert (
        predict(path) == TOTAL and b"\x00" not in path.read_bytes() and len(path.read_text().splitlines()) == 2 * TOTAL
    )


def test_half_a_surrogate_pair_is_written_as_json_can():
    (line,) = answer_lines(Question((), "half \ud83d"), ["光"])
    assert line.isascii() and json.loads(line) == {"src": "half \ud83d", "tgt": "", "output": "光"}


def test_what_answers_fails_of_is_passed_on(tmp_path):
    def broken(asked):
        raise DataError("gone")

    record = Record(tmp_path / "out.json", {}, TOTAL)
    with pytest.raises(DataError, match="gone"):
        write_answers(Numbers(), record, broken, 1)
    record.close()
