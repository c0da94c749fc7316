"""Exit statuses and messages of failures."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zoo_core.cli._failures import guarded
from zoo_core.cli.chat import command as chat
from zoo_core.cli.compress import command as compress
from zoo_core.cli.export import command as export
from zoo_core.cli.sample import command as sample
from zoo_core.cli.serve import command as serve
from zoo_core.errors import PlanError


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PlanError("what", "why", "todo"), 2, "error: what\n  why: why\n  do:  todo\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("odd\nthing"), 1, "error: ValueError: odd thing\n  why: this is a bug in zoo or in a plugin\n"),
    ],
)
def test_statuses(capsys, error, status, said):
    assert guarded(raising(error), with_traceback=False) == status
    err = capsys.readouterr().err
    assert err.startswith(said) and "Traceback" not in err


def test_a_bug_says_how_to_see_the_traceback_and_shows_it(capsys):
    guarded(raising(ValueError("odd")), with_traceback=False)
    assert "--traceback" in capsys.readouterr().err
    guarded(raising(ValueError("odd")), with_traceback=True)
    assert "Traceback" in capsys.readouterr().err


def test_no_colour_where_nobody_looks(capsys):
    guarded(raising(PlanError("what")), with_traceback=False)
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    program = "import sys; from zoo_core.cli import main; sys.exit(main(['layout', 'llama-65b']))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141 and err == b""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["models"],
        ["plugins"],
        ["layout", "qwen-7b", "--tp", "2"],
        ["plan", "qwen/qwen-7b", "--world", "8", "--tp", "2", "--pp", "2"],
        ["run", "pretrain", "--help"],
        ["run", "pretrain", "--model", "qwen-7b", "--scale", "tiny", "--dry_run", "--device", "cpu"],
        ["completion", "fish"],
    ],
)
def test_paddle_and_numpy_are_not_imported(words):
    program = (
        "import sys; from zoo_core.cli import main; status = main(sys.argv[1:]); "
        "print(status, 'paddle' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stderr.splitlines()[-1] == "0 False False"


@pytest.mark.parametrize("name", ["device", "tokenizer"])
def test_commands_that_load_a_model_have_one_such_option(name):
    commands = [compress.commands[each] for each in ("ptq", "gptq", "qat")] + [sample, chat, serve, export]
    found = [next(option for option in each.params if option.name == name) for each in commands]
    assert len({(tuple(option.opts), option.default, str(option.type)) for option in found}) == 1
    assert name == "device" or len({option.help for option in found}) == 1


def test_the_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "zoo_core", "modles"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "did you mean 'models'" in done.stderr
