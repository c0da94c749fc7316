"""The command line, command by command, with the plugins of this workspace."""

from __future__ import annotations

import json

import pytest

from zoo_core.cli import main
from zoo_core.cli._commands import COMMANDS


def zoo(capsys, *words):
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, words):
    status, out, _ = zoo(capsys, *words)
    assert status == 0
    assert all(f"  {name}" in out and entry.summary in out for name, entry in COMMANDS.items())


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(capsys, name):
    status, out, _ = zoo(capsys, name, "--help")
    assert status == 0 and "Usage: zoo" in out or "zoo run" in out


def test_version(capsys):
    assert zoo(capsys, "--version")[1].startswith("zoo 0.")


def test_models_lists_and_filters(capsys):
    _, out, _ = zoo(capsys, "models")
    assert "facebook/llama-7b" in out and "qwen/qwen-7b" in out
    _, out, _ = zoo(capsys, "models", "LLAMA-2-7B")
    assert "meta-llama/Llama-2-7b-chat" in out and "qwen" not in out
    _, out, _ = zoo(capsys, "models", "--family", "Qwen")
    assert "qwen/qwen-7b" in out and "facebook" not in out


def test_models_as_json(capsys):
    _, out, _ = zoo(capsys, "models", "meta-llama/Llama-2-7b", "--json")
    first = json.loads(out)["models"][0]
    assert first["name"] == "meta-llama/Llama-2-7b" and first["distribution"] == "zoo-llama"
    assert first["parameters"] == 6_738_415_616  # Touvron et al. 2023: 6.7B; the exact sum of the published shapes
    assert first["config"]["model_type"] == "llama"


def test_a_pattern_that_matches_nothing(capsys):
    status, out, err = zoo(capsys, "models", "nothing-like-it")
    assert status == 2 and out == "" and "no model's name holds" in err


def test_plugins(capsys):
    _, out, _ = zoo(capsys, "plugins")
    assert "zoo-llama" in out and "ok" in out
    names = [plugin["name"] for plugin in json.loads(zoo(capsys, "plugins", "--json")[1])["plugins"]]
    assert {"llama", "qwen"} <= set(names)


def test_layout_shows_every_parameter(capsys):
    _, out, _ = zoo(capsys, "layout", "llama-2-7b", "--tp", "4")
    assert out.count("self_attn.q_proj.weight") == 2 * 32  # our name and the published one
    line = next(line for line in out.splitlines() if line.startswith("llama.layers.31.mlp.down_proj.weight"))
    assert "11008 x 4096" in line and "2752 x 4096" in line and "(transposed)" in line
    assert "6,738,415,616" in out and "each of 4 ranks" in out


def test_layout_as_json_agrees_with_the_table(capsys):
    _, out, _ = zoo(capsys, "layout", "qwen/qwen-7b", "--tp", "2", "--scale", "tiny", "--json")
    found = json.loads(out)
    fused = next(row for row in found["parameters"] if row["name"].endswith("h.0.attn.c_attn.weight"))
    assert fused["local_shape"][1] * 2 == fused["shape"][1] and fused["split_dim"] == 1
    assert found["total"]["elements_per_rank"] < found["total"]["elements"]


def test_layout_refuses_a_degree_that_does_not_split(capsys):
    status, _, err = zoo(capsys, "layout", "llama-2-7b", "--tp", "3")
    assert status == 2 and "does not split over tp 3" in err and "--tp 2 is legal" in err


def test_plan_shows_stages_and_ranks(capsys):
    status, out, _ = zoo(
        capsys, "plan", "qwen/qwen-7b", "--world", "8", "--tp", "2", "--pp", "2", "--sharding", "stage1"
    )
    assert status == 0
    assert "sharding 2 (stage 1)" in out and "wte, blocks 0-15" in out and "blocks 16-31, ln_f, lm_head" in out
    assert out.rstrip().splitlines()[-1].split() == ["7", "0", "0", "1", "1", "1", "1"]


def test_plan_as_json(capsys):
    _, out, _ = zoo(capsys, "plan", "llama-7b", "--world", "8", "--tp", "2", "--pp", "4", "--json")
    (plan,) = json.loads(out)["plans"]
    assert (plan["world"], plan["tensor"], plan["pipeline"], plan["data"]) == (8, 2, 4, 1)
    assert plan["stage_bounds"] == [0, 9, 17, 25, 35]
    assert sum(stage["elements"] for stage in plan["stages"]) == 6_738_415_616
    assert len(plan["ranks"]) == 8 and plan["ranks"][5] == {"rank": 5, "data": 0, "pipe": 2, "sharding": 0, "tensor": 1}


def test_plan_without_a_world_takes_the_fewest(capsys):
    _, out, _ = zoo(capsys, "plan", "llama-7b", "--tp", "2", "--pp", "2")
    assert "= 4 processes" in out


def test_an_illegal_plan_is_refused_in_text_and_json(capsys):
    words = ("plan", "llama-7b", "--world", "8", "--pp", "2", "--sharding", "stage2")
    status, out, err = zoo(capsys, *words)
    assert status == 2 and out == "" and len(err.strip().splitlines()) == 3
    assert "stages 2 and 3 without pipeline" in err and "--sharding stage1" in err
    status, out, _ = zoo(capsys, *words, "--json")
    assert status == 2 and json.loads(out)["plans"] == [] and "stage1" in json.loads(out)["error"]["todo"]


def test_what_the_nearest_plan_proposes_is_accepted(capsys):
    words = ("plan", "llama-7b", "--world", "8", "--tp", "3", "--pp", "2", "--sharding", "stage3", "--dp", "2")
    _, _, err = zoo(capsys, *words)
    flags = err.split("nearest legal plan on 8 processes: ")[1].split()
    assert zoo(capsys, *words, *flags)[0] == 0


@pytest.mark.parametrize("world", ["0", "-1", "eight"])
def test_a_world_that_is_no_number(capsys, world):
    status, _, err = zoo(capsys, "plan", "llama-7b", "--world", world)
    assert status == 2 and "--world" in err


def test_the_rules_are_listed(capsys):
    _, out, _ = zoo(capsys, "plan", "--rules")
    assert "interleaving needs depth" in out and "evidence" in out


def test_completion_prints_a_script(capsys):
    for shell in ("bash", "zsh", "fish"):
        status, out, _ = zoo(capsys, "completion", shell)
        assert status == 0 and "_ZOO_COMPLETE" in out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("zoo mod", "models"),
        ("zoo run pre", "pretrain"),
        ("zoo run pretrain --tensor_parallel_d", "--tensor_parallel_degree"),
        ("zoo plan qwen/qwen-7b-c", "qwen/qwen-7b-chat"),
        ("zoo layout facebook/llama-1", "facebook/llama-13b"),
    ],
)
def test_completion_offers(capsys, monkeypatch, typed, offered):
    words = typed.split()
    monkeypatch.setenv("_ZOO_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert f"plain,{offered}" in capsys.readouterr().out.splitlines()


def test_a_dry_run_plans_and_starts_nothing(capsys, tmp_path):
    file = tmp_path / "pretrain.json"
    file.write_text(json.dumps({"model_name_or_path": "qwen/qwen-7b", "max_steps": 10, "max_seq_length": 128}))
    words = ("run", "pretrain", str(file), "--scale", "tiny", "--nproc", "4", "--tp", "2", "--pp", "2", "--dry_run")
    status, out, _ = zoo(capsys, *words, "--micro_batch_size", "2", "--accumulate_steps", "2", "--device", "cpu")
    assert status == 0
    assert "SCALE TINY" in out and "= 4 processes on cpu" in out
    assert "10 of 4 samples = 40 samples, 5,120 tokens" in out
    assert out.rstrip().endswith("nothing was started")


def test_a_dry_run_shows_the_plan_of_what_this_machine_would_refuse(capsys, tmp_path):
    words = (
        "run",
        "pretrain",
        "--model",
        "qwen-7b",
        "--input_dir",
        str(tmp_path / "none"),
        "--nproc",
        "2",
        "--tp",
        "2",
    )
    status, out, err = zoo(capsys, *words, "--dry_run")
    assert status == 2 and "tensor 2 = 2 processes" in out and str(tmp_path / "none") in err


def test_half_precision_on_the_cpu_is_said(capsys):
    words = ("run", "pretrain", "--model", "llama-7b", "--bf16", "--device", "auto", "--dry_run")
    _, _, err = zoo(capsys, *words)
    assert "bf16" in err and "fp32 on CPU" in err


def test_one_process_for_many_says_nproc(capsys):
    status, out, err = zoo(
        capsys, "run", "pretrain", "--model", "llama-7b", "--tp", "2", "--pp", "2", "--device", "cpu"
    )
    assert status == 2 and "--nproc 4" in err and out == ""


def test_a_device_that_this_paddle_lacks_is_refused(capsys):
    status, _, err = zoo(capsys, "run", "pretrain", "--model", "llama-7b", "--device", "xpu", "--nproc", "1")
    assert status == 2 and "cannot run on xpu" in err and "Paddle's own index" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["modles"], "did you mean 'models'"),
        (["models", "--jsn"], "did you mean --json"),
        (["plugins", "x"], "zoo plugins --help"),
        (["models", "--family", "lama"], "did you mean 'llama'"),
        (["layout"], "Missing argument 'MODEL'"),
        (["layout", "qwen/qwen-8b"], "did you mean 'Qwen/Qwen3-8B'"),
        (["run", "pretrian"], "did you mean 'pretrain'"),
        (["run", "compress"], "zoo compress does it"),
        (
            ["run", "pretrain", "--model", "llama-7b", "--tensor_paralel_degree", "2"],
            "did you mean --tensor_parallel_degree",
        ),
        (["run", "pretrain"], "model"),
        (["run", "pretrain", "--model", "llama-7b", "--scale", "tiny", "-o", "Model.hiden_size=3"], "hidden_size"),
        (["logits", "here"], "--ids and --out missing"),
        (["logits", "here", "--ids", "nowhere.npy", "--out", "x.npy"], "there is no file nowhere.npy"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_bad_words_exit_2_with_one_message(capsys, words, text):
    status, out, err = zoo(capsys, *words)
    assert status == 2 and out == "" and text in err
    assert err.startswith("error: ") and "Traceback" not in err and 1 <= len(err.strip().splitlines()) <= 3


@pytest.mark.parametrize("words", [["--traceback", "layout", "nonsense"], ["layout", "nonsense", "--traceback"]])
def test_traceback_before_or_after_the_command(capsys, words):
    status, _, err = zoo(capsys, *words)
    assert status == 2 and "Traceback" in err and "error: unknown model" in err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("plan", "qwen/qwen-7b", "--wrold", "8"), "--world"),
        (("plan", "qwen/qwen-7b", "--explian"), "--explain"),
        (("run", "pretrain", "--model", "qwen/qwen-7b", "--hardwear", "cpu"), "--hardware"),
        (("plan", "qwen/qwen-7b", "--learning_rat", "1"), "--learning_rate"),
    ],
)
def test_a_misspelt_option_is_named_whosever_it_is(capsys, words, meant):
    status, out, err = zoo(capsys, *words)
    assert status == 2 and out == "" and f"did you mean {meant}?" in err


def test_capabilities_fit_a_terminal_and_are_whole_lines_in_a_pipe(capsys, monkeypatch):
    whole = zoo(capsys, "capabilities", "qwen/qwen-7b")[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    narrow = zoo(capsys, "capabilities", "qwen/qwen-7b")[1]
    assert max(map(len, narrow.splitlines())) <= 150 < max(map(len, whole.splitlines()))
    assert sorted(narrow.split()) == sorted(whole.split())  # no word is cut: tests' names are copied
