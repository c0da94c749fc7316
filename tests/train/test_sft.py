"""Fine-tuning by the command, on one process: what it prints and writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from zoo_core.checkpoint import checkpoints, read_state

CONFIGS = Path(__file__).parents[1] / "user-configs" / "paddlenlp"
GOOD = '{"src": "and it was so", "tgt": "very good"}\n'


@pytest.fixture
def words(tuning_data, tmp_path):
    def make(*more: str, out: str = "out", model: str = "qwen/qwen-7b", data: Path | None = None) -> list[str]:
        small = "--scale tiny --num_hidden_layers 2 --device cpu --per_device_train_batch_size 4 --max_length 64"
        given = ["--tokenizer", str(tuning_data / "tokenizer"), "--dataset_name_or_path", str(data or tuning_data)]
        given += ["--output_dir", str(tmp_path / out), "--report_to", "none", "--logging_steps", "5"]
        return ["run", "sft", "--model", model, *small.split(), *given, *more]

    return make


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_a_run_learns_and_says_what_it_reached(run, words, tmp_path, read_losses, tuning_data):
    flags = "--max_steps 20 --learning_rate 5e-3 --eval_steps 10 --save_steps 10 --load_best_model_at_end"
    status, out, err = run(words(*flags.split(), "--metric_for_best_model", "accuracy"))
    assert (status, err) == (0, "")
    assert f"train      {tuning_data / 'train.json'}: 60 samples, " in out and "of them of answers; longest" in out
    assert f"dev        {tuning_data / 'dev.json'}: 7 samples" in out and "form       source, target, end" in out
    again = (
        f"{tmp_path / 'out' / 'checkpoint-10'} --prompt" in out
    )  # the best is evaluated once more if it is not the last
    assert out.count("validation at step") == 2 + again and ", accuracy: 0." in out
    rows, folder = read_losses(tmp_path / "out"), tmp_path / "out"
    assert list(rows[0])[-3:] == ["eval_loss", "eval_ppl", "eval_accuracy"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 1
    found = {name: json.loads((folder / f"{name}_results.json").read_text()) for name in ("all", "train", "eval")}
    assert found["all"] == {**found["train"], **found["eval"]}
    assert {"train_loss", "train_runtime", "train_samples_per_second", "epoch"} <= set(found["train"])
    best = max((row for row in rows if row["eval_accuracy"]), key=lambda row: float(row["eval_accuracy"]))
    assert found["eval"]["eval_accuracy"] == pytest.approx(float(best["eval_accuracy"]))
    assert found["eval"]["eval_ppl"] == pytest.approx(np.exp(found["eval"]["eval_loss"]))
    assert found["train"]["train_loss"] == pytest.approx(np.mean([float(row["loss"]) for row in rows]))
    assert f"best       {folder / ('checkpoint-' + best['step'])}" in out
    assert "  eval_accuracy " in out and f"zoo sample {folder / ('checkpoint-' + best['step'])} --prompt" in out
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    state = read_state(checkpoints(folder)[0].path)
    assert state["consumed_samples"] == 80 and state["epoch"] == pytest.approx(80 / 60)
    assert set(state["data"]) == {"digest"} and state["metrics"]["eval_accuracy"] > 0


def test_what_goes_on_names_the_checkpoint_that_it_started_from(run, words, tmp_path):
    """An output folder stands for its newest checkpoint, which is another one once that run has gone on."""
    base = tmp_path / "base"
    assert run(words("--max_steps", "1", "--learning_rate", "1e-2", out="base"))[0] == 0
    given = [word for word in words("--lora", "--max_steps", "1", model=str(base)) if word not in ("--scale", "tiny")]
    hidden = given.index("--num_hidden_layers")
    del given[hidden : hidden + 2]
    status, out, err = run(given)
    assert (status, err) == (0, "")
    assert "= 4 samples a step, up to 256 tokens" in out and "done       1 step in" in out
    again = shlex.split(next(line for line in out.splitlines() if line.startswith("go on")))[3:]
    assert run(words("--max_steps", "2", "--learning_rate", "1e-2", "--resume", out="base"))[0] == 0
    status, out, err = run(again)
    assert (status, err) == (0, "") and "(step 1)" in out and "done       2 steps in" in out
    assert again[again.index("--model_name_or_path") + 1] == str(base / "checkpoint-1") and "--model" not in again


@pytest.mark.parametrize("how", (["--zero_padding"], ["--group_by_length", "--pad_to_multiple_of", "8"]))
def test_resume_within_an_epoch_is_exact(run, words, tmp_path, read_losses, how):
    flags = ["--max_steps", "9", "--save_steps", "4", "--gradient_accumulation_steps", "2", *how]
    assert run(words(*flags, out="straight"))[0] == 0
    shutil.copytree(tmp_path / "straight" / "checkpoint-4", tmp_path / "out" / "checkpoint-4")
    status, out, err = run(words(*flags, "--resume", str(tmp_path / "out" / "checkpoint-4")))
    assert (status, err) == (0, "") and "(step 4)" in out
    assert read_losses(tmp_path / "out") == read_losses(tmp_path / "straight")[4:]
    assert weights(tmp_path / "out" / "checkpoint-9") == weights(tmp_path / "straight" / "checkpoint-9")
    if how == ["--zero_padding"]:
        assert "% full" in out and " rows of 64 tokens" in out
        status, out, err = run(words("--max_steps", "10", "--gradient_accumulation_steps", "2", "--resume"))
        assert status == 0 and "differ from the checkpoint's: other samples follow" in err


def test_epochs_and_early_stopping(run, words, tmp_path):
    by_epoch = "--evaluation_strategy epoch --save_strategy epoch --per_device_train_batch_size 16"
    status, out, err = run(words(*by_epoch.split(), "--num_train_epochs", "2"))
    assert (status, err) == (0, "") and "done       8 steps" in out  # 60 samples twice, 16 a step
    assert [saved.step for saved in checkpoints(tmp_path / "out")] == [8, 4]
    still = "--eval_steps 2 --learning_rate 0 --min_learning_rate 0 --max_steps 20 --save_strategy no"
    status, out, err = run(words(*still.split(), "--early_stopping_patience", "3", out="stopped"))
    assert (status, err) == (0, "")
    assert "no better loss for 3 evaluations" in out and "done       8 steps" in out
    status, out, err = run(words("--max_steps", "2", "--early_stopping_patience", "3", out="none"))
    assert status == 2 and "waits for evaluations" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "train.json is empty"),
        (b'{"src": "q"}\n', "train.json:21 has no tgt"),
        (b'{"src": 1, "tgt": "a"}\n', "train.json:21: src is neither a text nor a list of texts"),
        (b'{"src": "' + b"x" * (10 << 20) + b'", "tgt": "a"}\n', "train.json:21 is 10.0 MB long"),
        (b'{"src": "\xff", "tgt": "a"}\n', "train.json:21 is not UTF-8"),
    ],
)
def test_bad_data_is_named_by_line(run, words, tmp_path, content, said):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.json").write_bytes(GOOD.encode() * 20 * bool(content) + content + GOOD.encode() * bool(content))
    status, out, err = run(words("--max_steps", "1", data=data))
    assert status == 2 and said in err and "why:" in err and "do:" in err
    assert not (tmp_path / "out" / "checkpoint-1").exists()
    if content:
        status, out, err = run(words("--max_steps", "1", "--bad_lines", "skip", data=data))
        assert status == 0 and said in err and "left out: 1 line; the first: " in out and "21 samples" in out


def test_lengths_are_reported(run, words, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    long = json.dumps({"src": "it was " * 40, "tgt": "and " * 40 + "so"}) + "\n"
    (data / "train.json").write_text(GOOD * 9 + long + GOOD)
    status, out, err = run(words("--max_steps", "1", "--max_length", "32", data=data))
    assert (status, err) == (0, "")
    assert "truncated: 1 source, by " in out and f"the first is {data / 'train.json'}:10" in out
    assert "truncated: 1 answer" in out and "longest 31" in out


def test_chat_templates(run, words, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    pytest.importorskip("jinja2")
    plain = run(words("--max_steps", "1", "--chat_template", "none", out="plain"))
    chat = run(words("--max_steps", "1", "--chat_template", str(template), out="chat"))
    assert plain[::2] == chat[::2] == (0, "")
    assert "form       source, target" in plain[1] and "form       the tokenizer's chat form" in chat[1]
    assert "--prompt 'user: " in chat[1] and "<|endoftext|>assistant: '" in chat[1]
    for name, said in (("none.jinja", "no chat template at"), ("chat.json", "is no Jinja template")):
        (tmp_path / "chat.json").write_text("{}")
        status, _, err = run(words("--max_steps", "1", "--chat_template", str(tmp_path / name)))
        assert status == 2 and said in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dataset_name_or_path", ""], "--dataset_name_or_path sample"),
        (["--dataset_name_or_path", "nowhere"], "zoo downloads nothing"),
        (["--tokenizer", ""], "zoo tokenizer train --output tokenizer"),
        (["--do_predict"], "it has no test.json"),
        (
            ["--early_stopping_patience", "1", "--do_eval", "--metric_for_best_model", "bleu"],
            "loss and ppl and accuracy",
        ),
        (["--max_length", "4096", "--model", "gpt3-345M"], "--max_length"),
    ],
)
def test_refusals_say_what_to_do(run, words, tmp_path, more, said):
    status, _, err = run(words("--max_steps", "1", *more))
    assert status == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_dev_json_is_not_evaluated(run, words, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.json").write_text(GOOD * 4)
    status, _, err = run(words("--max_steps", "1", "--do_eval", data=data))
    assert status == 2 and "it has no dev.json" in err
    status, out, err = run(words("--max_steps", "1", data=data))
    assert (status, err) == (0, "") and "eval_loss" not in out


def test_learned_positions_limit_the_default_length(run, words, tmp_path):
    given = words("--max_steps", "1", model="gpt3-345M")
    at = given.index("--max_length")
    status, out, err = run(given[:at] + given[at + 2 :])
    assert (status, err) == (0, "") and "the model has learned so many positions" in out


def test_a_file_of_paddlenlp_runs_with_a_small_model(run, words, tmp_path):
    """The file as users have it; a person without a GPU adds the scale, one process and fewer steps."""
    given = words("--tp", "1", "--num_train_epochs", "0.2", model="facebook/llama-7b")
    status, out, err = run([*given[:2], str(CONFIGS / "llama-sft_argument.json"), *given[2:]])
    assert status == 0, err
    assert err.count("warning:") == 1 and "use_sparse_mask" in err and "fp16" in err
    assert "% full" in out and "eval_accuracy" in out and "best       " in out
