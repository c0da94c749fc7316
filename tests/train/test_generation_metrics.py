"""Evaluation by generating: what is measured, what is written, the same answers under every plan, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from zoo_core.checkpoint import checkpoints, read_state
from zoo_core.errors import ConfigError
from zoo_core.generate import EnginePasses, Row, Sampling, beam_search, load_model
from zoo_core.train import scores as scorers
from zoo_core.train.scores import SCORES, check_scorers, scores

ANSWERED = "--do_eval --eval_with_do_generation --save_generation_output --max_dec_len 12"


@pytest.fixture(scope="module")
def data(tuning_data, tmp_path_factory) -> Path:
    """The questions with a test part, one line of it a conversation of two turns."""
    folder = tmp_path_factory.mktemp("answers")
    for name in ("train.json", "dev.json"):
        shutil.copy(tuning_data / name, folder)
    lines = [{"src": ["and the", "of his"], "tgt": ["that", "he is 光明"]}, {"src": "unto they", "tgt": "shall be"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, {"src": "for I", "tgt": "in a"}])
    (folder / "test.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def words(tuning_data, data, tmp_path):
    def make(*more: str, task: str = "sft", out: str = "out", model: str = "qwen/qwen-7b") -> list[str]:
        small = "--scale tiny --num_hidden_layers 2 --device cpu --per_device_train_batch_size 4 --max_length 64"
        given = ["--tokenizer", str(tuning_data / "tokenizer"), "--dataset_name_or_path", str(data)]
        given += ["--output_dir", str(tmp_path / out), "--report_to", "none", "--logging_steps", "5"]
        return ["run", task, "--model", model, *small.split(), *given, *more]

    return make


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("answer", "target"),
    [("The cat sat on the mat.", "the cat sat on a mat"), ("今日天气很不好", "今日天气很太好")],
    ids=["english", "chinese"],
)
def test_scores_by_hand(answer, target):
    found = scores([answer], [target])
    if answer.isascii():  # BLEU counts case and the full stop, Rouge does not: 7 and 6 tokens
        precisions = (5 / 7, 2 / 6, 1 / 5, 0.5 / 4)  # no run of four is right: it counts half
        rouge = (5 / 6, 3 / 5, 5 / 6)
    else:
        precisions = (6 / 7, 4 / 6, 3 / 5, 2 / 4)
        rouge = (6 / 7, 4 / 6, 6 / 7)
    bleu = math.exp(sum(map(math.log, precisions)) / 4)
    assert found == pytest.approx(dict(zip(SCORES, (bleu, *rouge), strict=True)))


def test_scores_of_a_part():
    assert scores(["a b"], ["a b"]) == pytest.approx(dict.fromkeys(SCORES, 1.0)), "though nothing has four words"
    nothing = scores(["", "x"], ["a b c d", "光 明"])
    assert nothing["rouge1"] == nothing["rougel"] == 0.0 and nothing["bleu4"] < 0.2
    both = scores(["a b c d e", "w x y z"], ["a b c d e", "e f g h"])
    assert both["rouge1"] == both["rouge2"] == both["rougel"] == pytest.approx(0.5)
    assert 0 < both["bleu4"] < 1
    with pytest.raises(ValueError, match="1 answers and 2 targets"):
        scores(["a"], ["a", "b"])


def test_a_missing_library_is_named_before_training(run, words, tmp_path, monkeypatch):
    monkeypatch.setattr(scorers, "find_spec", lambda name: None if name == "rouge_score" else object())
    with pytest.raises(ConfigError, match="rouge-score missing"):
        check_scorers()
    status, out, err = run(words("--max_steps", "1", *ANSWERED.split()))
    assert status == 2 and 'pip install "zoo-core[metrics]"' in err and not (tmp_path / "out").exists()
    assert run(words("--max_steps", "1", "--do_eval"))[0] == 0


def test_a_rehearsal_names_the_files(run, words, tmp_path):
    status, out, _ = run(words("--max_steps", "1", *ANSWERED.split(), "--do_predict", "--dry_run"))
    named = [line.strip() for line in out.splitlines()]
    assert status == 0 and str(tmp_path / "out" / "test_results.json") in named
    assert str(tmp_path / "out" / "generated_output.json") in named and not (tmp_path / "out").exists()


def test_a_run_answers_measures_and_writes(run, words, tmp_path, read_losses):
    flags = "--max_steps 30 --learning_rate 5e-3 --eval_steps 15 --save_steps 15 --load_best_model_at_end --do_predict"
    status, out, err = run(words(*flags.split(), *ANSWERED.split(), "--per_device_eval_batch_size", "3"))
    assert (status, err) == (0, "")
    folder = tmp_path / "out"
    assert "test.json: 3 samples" in out and "validation BLEU-4 0." in out and "test BLEU-4 0." in out
    assert "test at step 30, bleu4: " in out and "no effect" not in out and "not in this version" not in out
    rows = [row for row in read_losses(folder) if row["eval_bleu4"]]
    assert [row["step"] for row in rows] == ["15", "30"] and "eval_loss" not in rows[0]
    best = max(rows, key=lambda row: float(row["eval_bleu4"]))
    assert f"best       {folder / ('checkpoint-' + best['step'])}, " in out
    dev, test = read(folder / "generated_output_dev.json"), read(folder / "generated_output.json")
    assert [len(part) for part in (dev, test)] == [7, 3] and set(dev[0]) == {"src", "tgt", "output"}
    assert test[0]["src"] == ["and the", "of his"] and test[0]["tgt"] == "he is 光明" and test[1]["src"] == "unto they"
    results = json.loads((folder / "all_results.json").read_text())
    for part, lines in (("eval", dev), ("test", test)):
        measured = scores([line["output"] for line in lines], [line["tgt"] for line in lines])
        assert {name: results[f"{part}_{name}"] for name in SCORES} == pytest.approx(measured)
    assert results["eval_bleu4"] == pytest.approx(float(best["eval_bleu4"])) and results["eval_rougel"] > 0.05
    assert read_state(checkpoints(folder)[0].path)["best"]["step"] == int(best["step"])
    # the answers are those of the checkpoint, one by one
    model = load_model(folder / f"checkpoint-{best['step']}")
    assert [line["output"] for line in dev] == ["".join(model.sample(line["src"], 12)) for line in dev]


@pytest.mark.parametrize("task", ["lora", "prefix"])
def test_adapters_and_prefixes_answer(run, words, tmp_path, task):
    more = ["--num_prefix_tokens", "4"] if task == "prefix" else []
    given = words("--max_steps", "2", "--learning_rate", "0.5", *ANSWERED.split(), *more, task=task)
    status, out, err = run([*given, "--save_steps", "2", "--max_evaluate_steps", "1"])
    assert (status, err) == (0, "") and "validation at step 2, bleu4: " in out
    lines = read(tmp_path / "out" / "generated_output.json")
    assert len(lines) == 7 and any(line["output"] for line in lines)


def test_beams_answer(run, words, tmp_path):
    """The two best of three beams, as `beam_search` finds them with the checkpoint's weights."""
    more = "--decode_strategy beam_search --num_beams 3 --num_return_sequences 2 --length_penalty 1.0"
    status, _, err = run(words("--max_steps", "1", "--save_steps", "1", *ANSWERED.split(), *more.split()))
    assert (status, err) == (0, "")
    lines = read(tmp_path / "out" / "generated_output.json")
    model = load_model(tmp_path / "out" / "checkpoint-1")
    rules = model.rules(Sampling(temperature=0.0), min_new_tokens=1)
    rows = [Row(model.encode(line["src"]), 12) for line in lines[::2]]
    best = beam_search(EnginePasses(model.engine), rows, rules, 3, length_penalty=1.0, num_return_sequences=2)
    told = [model.tokenizer.decode(list(beam.tokens), skip_special_tokens=True) for found in best for beam in found]
    assert len(told) == 14 and [line["output"] for line in lines] == told


LAYOUTS = {
    "tp2+sp": "--tp 2 --sequence_parallel --gradient_accumulation_steps 2 --per_device_train_batch_size 2",
    "stage3": "--sharding stage3 --per_device_train_batch_size 2",
}
SOAKED = {
    "dp2": "--per_device_train_batch_size 2", "stage2": "--sharding stage2 --per_device_train_batch_size 2",
    "ep2": "--sharding stage1 --expert_parallel_degree 2 --per_device_train_batch_size 2",
    "tp2xstage1": "--tp 2 --sharding stage1 --per_device_train_batch_size 2",
}  # fmt: skip


@pytest.fixture
def same_answers(run, words, nursery, tmp_path):
    """Let a model answer, several to a question, under layouts; gives what it says on one process, if all agree."""

    def compare(model: str, layouts: dict[str, str], *more: str) -> list[dict]:
        flags = f"{ANSWERED} --max_steps 2 --learning_rate 1e-3 --top_k 0 --top_p 0.9 --temperature 0.8 --min_dec_len 2"
        flags += " --num_return_sequences 2 --per_device_eval_batch_size 2 --save_strategy no"
        status, _, err = run(words(*flags.split(), *more, model=model))
        assert (status, err) == (0, "")
        wanted = read(tmp_path / "out" / "generated_output.json")
        for name, layout in layouts.items():
            world = 4 if "x" in name else 2
            given = words(*flags.split(), *more, *layout.split(), "--nproc", str(world), model=model, out=name)
            told = nursery.run(given, world, limit=300)
            assert told["statuses"] == [0] * world, nursery.log()
            assert read(tmp_path / name / "generated_output.json") == wanted, name
        return wanted

    return compare


def test_answers_do_not_depend_on_the_plan(same_answers, run, words, tmp_path):
    said = same_answers("facebook/llama-7b", LAYOUTS)
    assert len(said) == 14 and said[0]["src"] == said[1]["src"] and said[0]["output"] != said[1]["output"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "layouts", "more"),
    [
        ("deepseek-ai/DeepSeek-V3", SOAKED, ""),
        ("THUDM/chatglm2-6b", {**LAYOUTS, **SOAKED}, ""),
        ("bigscience/bloom-7b1", LAYOUTS, "--prefix_tuning --num_prefix_tokens 4"),
        ("facebook/llama-7b", LAYOUTS, "--lora --per_device_eval_batch_size 7"),
    ],
)
def test_answers_of_families_do_not_depend_on_the_plan(same_answers, model, layouts, more):
    layouts = {name: flags for name, flags in layouts.items() if "expert" not in flags or "deepseek" in model}
    assert len(same_answers(model, layouts, *more.split())) == 14


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--eval_with_do_generation", "--do_predict on test.json"),
        ("--do_eval --save_generation_output", "save_generation_output without eval_with_do_generation"),
        (f"{ANSWERED} --decode_strategy beam_search --num_return_sequences 2", "a beam gives one answer"),
        (f"{ANSWERED} --decode_strategy beam_search --sharding stage3 --nproc 2", "take greedy_search, or sampling"),
        (f"{ANSWERED} --min_dec_len 13", "min_dec_len 13 is above max_dec_len 12"),
        (f"{ANSWERED} --num_return_sequences 2", "each answer would be the same"),
        (f"{ANSWERED} --metric_for_best_model loss --load_best_model_at_end", "bleu4 and rouge1 and rouge2 and rougel"),
        (f"{ANSWERED} --zero_padding", "packed rows hold several answers"),
        (f"{ANSWERED} --pp 2 --nproc 2", "generation-evaluation with pp 2"),
        ("--do_predict --dataset_name_or_path sample", "it has no test.json"),
    ],
)
def test_refusals_say_what_to_do(run, words, tmp_path, more, said):
    status, _, err = run(words("--max_steps", "1", *more.split()))
    assert status == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
