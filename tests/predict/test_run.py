"""`zoo run predict` as a user runs it: answers, resumes, layouts, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from zoo_core.cli import main
from zoo_core.generate import Sampling, load_model
from zoo_core.predict.answering import WINDOW
from zoo_core.predict.record import Record, part_of

DRAWN = "--top_k 0 --temperature 0.9".split()


@pytest.fixture
def words(folder, questions, tmp_path):
    def make(*more, model=folder, data=questions, out="out.json"):
        given = ["--model", str(model), "--data_file", str(data), "--output_file", str(tmp_path / out)]
        return ["run", "predict", *given, "--device", "cpu", "--max_dec_len", "8", "--batch_size", "4", *more]

    return make


@pytest.fixture
def run(capsys):
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(given):
        capsys.readouterr()
        status = main(given)
        out, err = capsys.readouterr()
        return status, out, err

    yield call
    for number, handler in handlers:
        signal.signal(number, handler)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 64
    path.write_bytes(content)


def refused(run, given, *said):
    status, _, err = run(given)
    assert status == 2 and all(text in err for text in said), err
    return err


def test_answers_are_those_of_each_question_alone(run, words, tmp_path, folder, questions):
    status, out, err = run(words("--decode_strategy", "greedy_search"))
    assert (status, err) == (0, "") and "20 of " in out and "in the family's chat form" in out
    assert "shortened  1 prompt cut to the last " in out and "BLEU-4" in out
    assert f"wrote      {tmp_path / 'out.json'}" in out
    lines, asked, model = read(tmp_path / "out.json"), read(questions), load_model(folder)
    assert len(lines) == len(asked) == 20
    for number in (0, 1, 11, 13, 14, 15, 16):
        line, question = lines[number], asked[number]
        if "prompt" in question:
            ids, source = model.encode(question["prompt"]), question["prompt"]
        else:
            sources = question.get("src", question.get("messages", [{}])[-1].get("content"))
            texts, answers = ([sources] if isinstance(sources, str) else sources), question.get("tgt", [])
            messages = list(question.get("messages", []))
            for at, text in enumerate(texts if not messages else []):
                messages.append({"role": "user", "content": text})
                if at + 1 < len(texts):
                    messages.append({"role": "assistant", "content": answers[at]})
            ids, source = model.chat_ids(messages), texts[0] if len(texts) == 1 else texts
        rules = model.rules(Sampling(temperature=0.0), chat=True, min_new_tokens=1)
        assert line["output"] == "".join(model.answer(ids, rules, 8)) and line["src"] == source
    assert lines[14]["tgt"] == asked[14]["tgt"][1] and lines[0]["tgt"] == "" and lines[1]["tgt"] == asked[1]["tgt"]


def test_the_same_command_again_changes_nothing_and_another_is_refused(run, words, tmp_path):
    assert run(words())[0] == 0
    before = (tmp_path / "out.json").read_bytes()
    status, out, _ = run(words())
    assert status == 0 and "has all answers already" in out
    refused(run, words("--top_p", "0.5"), "another prediction", "top_p is 1.0 there, 0.5 here")
    assert (tmp_path / "out.json").read_bytes() == before
    assert run(words("--repetition_penalty", "3", "--overwrite_output"))[0] == 0
    assert (tmp_path / "out.json").read_bytes() != before


def test_several_answers_each_have_draws_of_their_own(run, words, tmp_path):
    assert run(words(*DRAWN, "--num_return_sequences", "2", out="two.json"))[0] == 0
    two = read(tmp_path / "two.json")
    assert len(two) == 40 and all(a["src"] == b["src"] for a, b in zip(two[::2], two[1::2], strict=True))
    assert sum(a["output"] != b["output"] for a, b in zip(two[::2], two[1::2], strict=True)) > 14
    assert run(words(*DRAWN, "--batch_size", "5", out="one.json"))[0] == 0
    assert read(tmp_path / "one.json") == two[::2], "whatever is answered beside it"
    assert run(words(*DRAWN, "--seed", "7", out="seed.json"))[0] == 0
    assert read(tmp_path / "seed.json") != two[::2]


def test_beams_and_stop_texts(run, words, tmp_path):
    beams = "--decode_strategy beam_search --num_beams 3".split()
    assert run(words(*beams, "--num_return_sequences", "2", out="beams.json"))[0] == 0
    status, _, err = run(words(*beams, "--temperature", "0.5", out="best.json"))
    assert status == 0 and "temperature: beam search takes the likeliest texts" in err
    several = read(tmp_path / "beams.json")
    assert len(several) == 40 and read(tmp_path / "best.json") == several[::2]
    assert run(words(*DRAWN, out="plain.json"))[0] == 0
    plain = [line["output"] for line in read(tmp_path / "plain.json")]
    # a character that follows whole characters: unfinished ones are U+FFFD, sooner where a text is given out by pieces
    stop = next(char for text in plain for char in text.partition("\ufffd")[0][1:])
    assert run(words(*DRAWN, "--stop", json.dumps([stop, "no such text"]), out="stopped.json"))[0] == 0
    stopped, cut = [line["output"] for line in read(tmp_path / "stopped.json")], 0
    for text, short in zip(plain, stopped, strict=True):
        before, found, _ = text.partition(stop)
        assert stop not in short
        if "\ufffd" not in before:
            assert short == before
            cut += bool(found)
    assert cut


def test_killed_it_goes_on_and_gives_the_same_file(run, words, tmp_path, questions):
    many = tmp_path / "many.jsonl"
    many.write_text(questions.read_text() * 3, encoding="utf-8")
    more = [*DRAWN, "--batch_size", "1", "--max_dec_len", "5"]
    given = words(*more, data=many)
    assert run(words(*more, data=many, out="whole.json"))[0] == 0
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo_core", *given], env=environ, stdout=stream, stderr=stream
        )
    state, done = tmp_path / "out.json.state", 0
    try:
        while not 0 < done < 3 * 20:
            assert process.poll() is None, log.read_text()
            time.sleep(0.002)
            done = json.loads(state.read_text())["done"] if state.exists() else 0
    finally:
        process.kill()
        process.wait()
    held = part_of(tmp_path / "out.json").read_bytes()
    assert not (tmp_path / "out.json").exists() and held
    assert all(json.loads(line) for line in held.decode().splitlines()[:done]) and done % WINDOW == 0
    status, out, _ = run(given)
    assert status == 0 and f"going on   after {done} questions" in out and "of them before" in out
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_an_interrupt_says_how_to_go_on(run, words, tmp_path, monkeypatch):
    begun, told = Record.add, []

    def add(record, lines, done):
        begun(record, lines, done)
        told.append(done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Record, "add", add)
        status, _, err = run(words("--batch_size", "1", "--max_dec_len", "2"))
    assert status == 130 and told == [WINDOW] and f"{WINDOW} of 20 questions answered" in err
    assert f"going on   after {WINDOW} questions" in run(words("--batch_size", "1", "--max_dec_len", "2"))[1]


@pytest.mark.t2
def test_two_ranks_answer_like_one(run, words, tmp_path):
    assert run(words(*DRAWN, out="one.json"))[0] == 0
    wanted = (tmp_path / "one.json").read_bytes()
    launched(words, tmp_path, "--tensor_parallel_degree", "2", "--nproc", "2", wanted=wanted)


@pytest.mark.soak
@pytest.mark.parametrize("layout", ["--nproc 2", "--pp 2 --nproc 2", "--tp 2 --nproc 4"])
def test_other_layouts_answer_like_one(run, words, tmp_path, layout):
    assert run(words(*DRAWN, out="one.json"))[0] == 0
    launched(words, tmp_path, *layout.split(), wanted=(tmp_path / "one.json").read_bytes())


def launched(words, tmp_path, *layout, wanted):
    given = words(*DRAWN, *layout, "--log_dir", str(tmp_path / "log"))
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo_core", *given]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out.json").read_bytes() == wanted and done.stdout.count("wrote") == 1


def test_a_base_model_reads_questions_as_they_are(run, words, base):
    status, out, _ = run(words(model=base))
    assert status == 0 and "as plain text" in out


def test_a_rehearsal_starts_nothing(run, words, tmp_path):
    status, out, _ = run(words("--dry_run", "--tp", "2", "--world", "4"))
    assert status == 0 and "4 processes" in out and "questions  20, 0 of them answered" in out
    assert list(tmp_path.iterdir()) == []
    status, out, err = run(words("--dry_run", model="facebook/llama-7b"))
    assert status == 2 and "STAGE" in out and "no weights of" in err, "the plan is shown all the same"


def test_half_precision_is_float32_on_cpu_and_says_so(run, words):
    status, _, err = run(words("--dtype", "bfloat16", "--dry_run"))
    assert status == 0 and "warning: dtype bfloat16 is float32 on CPU" in err


def test_refusals(run, words, tmp_path, folder, monkeypatch):
    def line(text, name="bad.json"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    monkeypatch.setattr("zoo_core.cli._answering.import_paddle", lambda device: pytest.fail("a model was loaded"))
    given = words()
    del given[given.index("--data_file") : given.index("--data_file") + 2]
    refused(run, given, "no questions are named", "--data_file FILE")
    refused(run, words(data=tmp_path / "nothing.json"), "no questions at", "no such file")
    refused(run, words(data=tmp_path), "it is a folder")
    refused(run, words(data=line("\n\n")), "is empty")
    refused(run, words(data=line('{"src": "a"}\n{"src": \n')), "bad.json:2 is not JSON")
    refused(run, words(data=line('{"src": "a"}\n\n{"source": "a"}\n')), "bad.json:3 asks nothing")
    refused(run, words(data=line('{"src": "a"}\n'), out="bad.json"), "answers would replace the questions")
    refused(run, words(model=tmp_path / "nowhere"), "nowhere")
    refused(run, words("--num_beams", "2"), "only beam_search has beams")
    refused(run, words("--num_return_sequences", "2"), "greedy decoding")
    refused(run, words("--decode_strategy", "beam_search", "--num_return_sequences", "2"), "of 1 beams")
    refused(run, words("--min_dec_len", "9"), "min_dec_len 9 is above max_dec_len 8")
    refused(run, words("--stop", "["), "no JSON list")
    refused(run, words("--lora_path", str(tmp_path)), "no adapter in")
    refused(run, words("--prefix_path", str(tmp_path)), "no prefix in")
    refused(run, words("--lora_path", "a", "--prefix_path", "b"), "one of them")
    refused(run, words("--scale", "tiny"), "has no weights to predict with")
    refused(run, words("--tp", "3", "--nproc", "3"), "tensor")
    refused(run, words("--chat_template", str(tmp_path / "no.jinja")), "no chat template")
    refused(run, words("--tokenizer", str(tmp_path / "none")), "no tokenizer at")
    (tmp_path / "taken.json").write_text("mine")
    refused(run, words(out="taken.json"), "exists")
    assert (tmp_path / "taken.json").read_text() == "mine" and not (tmp_path / "out.json").exists()
    refused(run, words("--world", "2"), "--world is for --dry-run")


@pytest.mark.parametrize("task", ["lora", pytest.param("prefix", marks=pytest.mark.soak)])
def test_what_was_trained_answers_as_its_evaluation_did(run, words, tmp_path, folder, task):
    """The adapter knows its base; named beside it, it gives the same. Draws are those of evaluation by generating."""
    data = tmp_path / "data"
    data.mkdir()
    lines = [{"src": f"In the {word}", "tgt": "God created"} for word in ("beginning", "heaven", "earth and")]
    for name in ("train.json", "dev.json"):
        (data / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained, drawn = tmp_path / "trained", [*DRAWN, "--max_dec_len", "8"]
    status, _, err = run(
        ["run", task, "--model", str(folder), "--dataset_name_or_path", str(data), "--output_dir", str(trained)]
        + "--device cpu --max_steps 2 --learning_rate 0.5 --report_to none --max_length 64".split()
        + (["--num_prefix_tokens", "3"] if task == "prefix" else [])
        + ["--do_eval", "--eval_with_do_generation", "--save_generation_output", *drawn]
    )
    assert status == 0, err
    outputs = []
    for name, more in (
        ("knows.json", words(*DRAWN, model=trained, data=data / "dev.json", out="knows.json")),
        ("beside.json", words(*DRAWN, f"--{task}_path", str(trained), data=data / "dev.json", out="beside.json")),
        ("base.json", words(*DRAWN, data=data / "dev.json", out="base.json")),
    ):
        status, out, err = run(more)
        assert status == 0 and (f"{'adapter' if task == 'lora' else 'prefix':<11}" in out) == (name != "base.json"), err
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1] == (trained / "generated_output.json").read_bytes() != outputs[2]
    other, beside = tmp_path / "other", (f"--{task}_path", str(trained))
    shutil.copytree(folder, other)
    flip(next(other.glob("*.safetensors")))
    status, out, err = run(words(*DRAWN, *beside, model=other, data=data / "dev.json", out="other.json"))
    assert status == 0 and f"was trained on {folder}, whose files are not those of {other}" in err
    status, out, err = run(["eval", "ppl", str(other), *beside, "--data", str(data / "dev.json"), "--json_key", "src"])
    assert status == 0 and f"was trained on {folder}, whose files are not those of {other}" in err
    flip(next((trained / "checkpoint-2").glob(f"{task}-*.safetensors")))
    status, out, err = run(words(*DRAWN, *beside, data=data / "dev.json", out="damaged.json"))
    assert status == 2 and f"{trained / 'checkpoint-2'} is damaged" in err and not (tmp_path / "damaged.json").exists()
