"""Preference optimisation by the command, on one process: what it says and writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zoo_core.checkpoint import checkpoints, read_state
from zoo_core.train.dpo_objective import MEASURED

CONFIG = Path(__file__).parents[1] / "user-configs" / "paddlenlp" / "config-llama-dpo_argument.json"
GOOD = '{"src": ["and it was so"], "tgt": [], "response": ["very good", "evil"], "sort": [1, 0]}\n'
LORA = ("--lora", "--lora_rank", "4", "--learning_rate", "1e-2")


@pytest.fixture
def words(pairs, tmp_path):
    def make(*more: str, out: str = "out", task: tuple[str, ...] = ("dpo",)) -> list[str]:
        small = "--scale tiny --num_hidden_layers 2 --device cpu --per_device_train_batch_size 2 --max_seq_len 64"
        given = ["--tokenizer", str(pairs / "tokenizer"), "--model", "meta-llama/Meta-Llama-3-8B"]
        given += ["--train_dataset_path", str(pairs / "pairs-train.jsonl"), "--learning_rate", "1e-3"]
        given += ["--output_dir", str(tmp_path / out), "--report_to", "none", "--logging_steps", "5"]
        return ["run", *task, *small.split(), *given, *more]

    return make


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_a_run_learns_and_says_what_it_reached(run, words, pairs, tmp_path, read_losses):
    dev = ["--dev_dataset_path", str(pairs / "pairs-dev.jsonl"), "--metric_for_best_model", "rewards/accuracies"]
    flags = "--max_steps 20 --eval_steps 10 --save_steps 10 --load_best_model_at_end --beta 0.3"
    status, out, err = run(words(*flags.split(), *dev))
    assert (status, err) == (0, "")
    assert f"train      {pairs / 'pairs-train.jsonl'}: 36 pairs, " in out and "dev        " in out
    assert "reference  random, seed 42, a second copy" in out
    assert "rewards/margins: " in out and "validation at step 20, loss: " in out
    rows, folder = read_losses(tmp_path / "out"), tmp_path / "out"
    assert set(MEASURED) < set(rows[0]) and {f"eval_{name}" for name in MEASURED} < set(rows[0])
    first, last = ({name: float(rows[at][name]) for name in ("loss", *MEASURED)} for at in (0, -1))
    assert first["loss"] == pytest.approx(0.693147, abs=1e-6) and first["rewards/margins"] == 0
    assert last["loss"] < 0.4 and last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"], rel=1e-5)
    found = json.loads((folder / "eval_results.json").read_text())
    assert found["eval_rewards/accuracies"] > 0.9 and "  eval_rewards/margins " in out
    for name in ("loss.png", "rewards.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert f"sample     zoo sample {folder / 'checkpoint-'}" in out
    state = read_state(checkpoints(folder)[0].path)
    assert state["consumed_samples"] == 40 and state["metrics"]["rewards/accuracies"] == 1.0


@pytest.mark.parametrize("more", [(), LORA, ("--ref_model_update_steps", "2")], ids=["weights", "lora", "moved"])
def test_resume_within_an_epoch_is_exact(run, words, tmp_path, read_losses, more):
    flags = ["--max_steps", "7", "--save_steps", "4", "--gradient_accumulation_steps", "2", *more]
    assert run(words(*flags, out="straight"))[0] == 0
    shutil.copytree(tmp_path / "straight" / "checkpoint-4", tmp_path / "out" / "checkpoint-4")
    status, out, err = run(words(*flags, "--resume", str(tmp_path / "out" / "checkpoint-4")))
    assert (status, err) == (0, "")
    assert read_losses(tmp_path / "out") == read_losses(tmp_path / "straight")[4:]
    assert stored(tmp_path / "out" / "checkpoint-7") == stored(tmp_path / "straight" / "checkpoint-7") != {}
    losses = [float(row["loss"]) for row in read_losses(tmp_path / "straight")]
    moved = [step for step, loss in enumerate(losses) if abs(loss - 0.693147) < 1e-6]
    assert moved == ([0, 2, 4, 6] if "--ref_model_update_steps" in more else [0])
    if moved[1:]:  # the reference of step 7 is the policy of step 6, which was not saved
        status, _, err = run(words("--max_steps", "9", *more, "--gradient_accumulation_steps", "2", "--resume"))
        assert status == 2 and "the reference model is missing" in err and "save_steps" in err


def test_losses_without_a_reference_need_none(run, words, tmp_path, read_losses):
    for kind in ("simpo", "orpo"):
        status, out, err = run(words("--max_steps", "3", "--loss_type", kind, "--beta", "2", out=kind))
        assert (status, err) == (0, "") and "reference" not in out
        assert float(read_losses(tmp_path / kind)[-1]["rewards/chosen"]) < 0  # 2 x log-probability of a token
    rows = read_losses(tmp_path / "orpo")
    assert float(rows[0]["loss"]) > float(rows[0]["nll_loss"]) > 1  # the likelihood, and the odds


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "train.jsonl is empty"),
        (b'{"src": "q", "response": ["a", "b"]}\n', "train.jsonl:13 has no sort"),
        (b'{"src": ["q"], "tgt": [], "response": ["a"], "sort": [1, 0]}\n', "13: response is no list of two texts"),
        (b'{"src": ["q"], "tgt": [], "response": ["a", "b"], "sort": [1, 1]}\n', "13: both answers have the rank 1"),
        (b'{"prompt": "q", "chosen": "a"}\n', "train.jsonl:13 has no rejected"),
        (b'{"prompt": "q", "chosen": " ", "rejected": "b"}\n', "13: the chosen answer is empty"),
        (b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}\n', "train.jsonl:13 is not UTF-8"),
        (b'{"prompt": "' + b"x" * (10 << 20) + b'", "chosen": "a", "rejected": "b"}\n', "13 is 10.0 MB long"),
    ],
)
def test_bad_data_is_named_by_line(run, words, tmp_path, content, said):
    data = tmp_path / "train.jsonl"
    data.write_bytes(GOOD.encode() * 12 * bool(content) + content + GOOD.encode() * bool(content))
    status, _, err = run(words("--max_steps", "1", "--train_dataset_path", str(data)))
    assert status == 2 and said in err and "why:" in err and "do:" in err
    assert not (tmp_path / "out" / "checkpoint-1").exists()
    if b"sort" in content:
        more = ["--train_dataset_path", str(data), "--bad_lines", "skip"]
        status, out, err = run(words("--max_steps", "1", *more))
        assert status == 0 and said in err and "left out: 1 line; the first: " in out and "13 pairs" in out


def test_lengths_are_reported(run, words, tmp_path):
    data = tmp_path / "train.jsonl"
    long = {"prompt": "it was " * 40, "chosen": "and " * 40 + "so", "rejected": "no"}
    data.write_text(GOOD * 9 + json.dumps(long) + "\n" + GOOD)
    lengths = ["--max_seq_len", "32", "--max_prompt_len", "20", "--train_dataset_path", str(data)]
    status, out, err = run(words("--max_steps", "1", *lengths))
    assert (status, err) == (0, "")
    assert "truncated: 1 prompt, by " in out and f"the first is {data}:10" in out
    assert "truncated: 1 pair of answers" in out and "longest with its prompt 31" in out


def test_pairs_of_equal_answers_are_told_of_once(run, words, tmp_path):
    data = tmp_path / "train.jsonl"
    same = GOOD.replace('"evil"', '"very good"')
    data.write_text(GOOD * 9 + same + GOOD + same)
    status, out, err = run(words("--max_steps", "1", "--train_dataset_path", str(data)))
    assert (status, err) == (0, "") and "12 pairs, " in out
    assert out.count("warning: 2 pairs of answers that are the same") == 1 and f"the first is {data}:10" in out
    assert "= 2 pairs a step, up to 256 tokens" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train_dataset_path", ""], "--train_dataset_path FILE"),
        (["--train_dataset_path", "nowhere.jsonl"], "zoo downloads nothing"),
        (["--do_eval"], "--dev_dataset_path FILE"),
        (["--loss_type", "dpop", "--reference_free"], "loss_type dpop and reference_free"),
        (["--loss_type", "simpo", "--ref_model_update_steps", "2"], "without a reference model"),
        (["--lora", "--ref_model_update_steps", "2"], "does not combine with adapters"),
        (["--pref_loss_ratio", "0"], "nothing is minimised"),
        (["--loss_type", "bco"], "hinge"),
        (["--label_smoothing", "0.7"], "label_smoothing"),
    ],
)
def test_what_is_refused(run, words, tmp_path, more, said):
    status, _, err = run(words("--max_steps", "1", *more))
    assert status == 2 and said in err and not (tmp_path / "out").exists()


def test_a_smoothing_that_changes_nothing_is_said(run, words):
    status, _, err = run(words("--max_steps", "1", "--loss_type", "hinge", "--label_smoothing", "0.1"))
    assert status == 0 and "label_smoothing changes nothing: the loss hinge has none" in err


def test_a_file_of_paddlenlp_runs(run, words, pairs, read_losses, tmp_path):
    flags = ["--tp", "1", "--max_steps", "2", "--dev_dataset_path", str(pairs / "pairs-dev.jsonl")]
    status, out, err = run(words(*flags, task=("dpo", str(CONFIG))))
    assert status == 0 and "flash_mask" in err and "error" not in err
    assert "batch      micro 2 x accumulate 8" in out and len(read_losses(tmp_path / "out")) == 2
