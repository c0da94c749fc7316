"""A worker that dies is started again as long as that answers more questions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zoo_core.arguments import load_arguments
from zoo_core.engine.launch import Died
from zoo_core.predict import restarts
from zoo_core.predict.record import Record


@pytest.fixture
def going(monkeypatch, tmp_path):
    """Workers that answer so many questions each, and die unless all are answered."""

    def make(*steps, restarts_left=5, overwrite=False):
        path, seen = tmp_path / "out.json", []

        def spawn(launch, plan, words, changes):
            seen.append(dict(changes))
            record = Record(path, {"a": 1}, 10, changes.get("overwrite_output", overwrite))
            done = min(record.done + steps[len(seen) - 1], 10)
            record.add([f"{number}" for number in range(record.done, done)], done)
            record.finish()
            record.close()
            if done < 10:
                raise Died(0, 1, "was killed by signal 9", "log")
            return 0

        monkeypatch.setattr(restarts, "spawn", spawn)
        words = ["--model", "x", "--output_file", str(path), "--max_restarts", str(restarts_left)]
        ready = SimpleNamespace(settings={"a": 1}, prompts=range(10))
        arguments = load_arguments("predict", (), [*words, *(["--overwrite_output"] if overwrite else [])])
        return path, seen, lambda: restarts.keep_answering(arguments, None, ready, ["run"])

    return make


def test_it_goes_on_until_all_are_answered(going, capsys):
    path, seen, run = going(3, 3, 9)
    assert run() == 0 and path.read_text().split() == list("0123456789")
    assert seen == [{}, {"overwrite_output": False}, {"overwrite_output": False}]
    assert "going on after 6 questions, 3 restarts left" in capsys.readouterr().err


def test_it_ends_when_nothing_more_is_answered_or_no_restart_is_left(going):
    _, seen, run = going(3, 0, 9)
    with pytest.raises(Died):
        run()
    assert len(seen) == 2
    _, seen, run = going(1, 1, 1, restarts_left=1)
    with pytest.raises(Died):
        run()
    assert len(seen) == 2


def test_what_was_to_be_overwritten_is_overwritten_once(going):
    path, seen, run = going(3, 9, overwrite=True)
    path.write_text("old")
    assert run() == 0 and path.read_text().split() == list("0123456789")
    assert seen == [{}, {"overwrite_output": False}]
