"""`zoo export`, and what answers from its folder: the same as the model, or a refusal that leaves nothing behind."""

from __future__ import annotations

import json
import shutil

import pytest

from zoo_core import ZooError
from zoo_core.cli import main
from zoo_core.export import load_static, read_exported
from zoo_core.generate import Row, Sampling, load_model
from zoo_core.generate.beam import beam_search
from zoo_core.generate.rules import Rules

PROMPTS = ("In the beginning", "God", "the heaven and the earth. the heaven and")


def said(model, rows, rules):
    """Rows that join one after the other, and leave when they have ended."""
    pool, waiting, found, held = model.pool(3, 70), list(enumerate(rows)), {}, {}
    while waiting or held:
        if waiting and pool.free and len(found) % 2 == 0 or waiting and not held:
            at, row = waiting.pop(0)
            held[pool.add(row, rules)] = at
            found[at] = []
        for ticket, step in pool.step().items():
            found[held[ticket]].append(step.token)
            if step.finish:
                del held[ticket]
    return found


def test_rows_that_come_and_go_are_answered_as_by_the_model(folder, exported):
    model, static = load_model(folder), load_static(exported)
    ids = [model.encode(prompt) for prompt in (*PROMPTS, *PROMPTS)]
    rows = [Row(prompt, 24 + 10 * at, at) for at, prompt in enumerate(ids) if len(prompt) + 24 + 10 * at <= 70]
    assert len(rows) > 4 and max(len(row.ids) + row.max_new_tokens for row in rows) > 64, "a wider window takes over"
    for rules in (model.rules(Sampling(0.0), ends=()), model.rules(Sampling(1.2, 0, 0.9, repetition_penalty=1.1))):
        assert said(static, rows, rules) == said(model, rows, rules)


def test_beams_are_those_of_the_model(folder, exported):
    model, static = load_model(folder), load_static(exported)
    rows, rules = [Row(model.encode(PROMPTS[0]), 12)], Rules(Sampling(0.0), vocab_size=280)
    wanted, found = (beam_search(one.passes(), rows, rules, 3) for one in (model, static))
    assert [beam.tokens for beam in found[0]] == [beam.tokens for beam in wanted[0]]
    with pytest.raises(ZooError, match="exported for 3"):
        beam_search(static.passes(), rows, rules, 4)


def test_predict_and_sample_say_the_same(folder, exported, tmp_path, capsys):
    questions = tmp_path / "questions.json"
    questions.write_text("".join(json.dumps({"src": prompt}) + "\n" for prompt in PROMPTS), encoding="utf-8")
    common = [
        "--data_file",
        str(questions),
        "--max_dec_len",
        "12",
        "--top_k",
        "0",
        "--seed",
        "4",
        "--disable_tqdm",
        "1",
    ]
    answers = {}
    for name, own in (
        ("model", ["--model", str(folder)]),
        ("replay", ["--static", str(exported)]),
        ("jit", ["--static", str(exported), "--export_runner", "jit"]),
        ("inference", ["--export_dir", str(exported), "--export_runner", "inference"]),
    ):
        output = tmp_path / f"{name}.json"
        assert main(["run", "predict", *own, *common, "--output_file", str(output)]) == 0
        answers[name] = output.read_text(encoding="utf-8")
    assert set(answers.values()) == {answers["model"]}
    capsys.readouterr()
    for path in (folder, exported):
        assert main(["sample", str(path), "--prompt", "In the", "--seed", "3", "--max_new_tokens", "9"]) == 0
    first, _, rest = capsys.readouterr().out.partition("In the")
    assert first == "" and rest.split("In the")[0] == rest.split("In the")[1]


def refused(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert status == 2 and "Traceback" not in err, (status, out, err)
    return err


def test_what_is_not_exported(folder, exported, tmp_path, capsys):
    target = tmp_path / "there"
    assert "context is 256" in refused(capsys, "export", folder, target, "--max_length", "257")
    assert "split over processes" in refused(capsys, "export", folder, target, "--tp", "2")
    assert "needs a GPU" in refused(capsys, "export", folder, target, "--device", "cpu", "--dtype", "bfloat16")
    assert "no weights of" in refused(capsys, "export", tmp_path / "nothing", target)
    assert "already exists" in refused(capsys, "export", folder, exported)
    assert list(tmp_path.iterdir()) == []


def test_programs_that_are_not_the_model_are_not_left_behind(folder, tmp_path, capsys, monkeypatch):
    from zoo_core.export import write

    def spoilt(engine, spec, beside, say):
        saved(engine, spec, beside, say)
        for parameter in engine.layers.parameters():
            parameter.set_value(parameter * 1.01)

    saved = write.save_programs
    monkeypatch.setattr(write, "save_programs", spoilt)
    error = refused(capsys, "export", folder, tmp_path / "there", "--max_length", "16")
    assert "are not the model" in error and "paddle.jit.load" in error and list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_traced_says_so(folder, tmp_path, capsys):
    """The base of a long prompt's rotary positions is a number of Qwen v1's code, and depends on the prompt."""
    own = tmp_path / "weights"
    shutil.copytree(folder, own)
    config = json.loads((own / "config.json").read_text(encoding="utf-8"))
    (own / "config.json").write_text(json.dumps({**config, "seq_length": 32}), encoding="utf-8")
    error = refused(capsys, "export", own, tmp_path / "there", "--max_length", "70")
    assert "cannot be traced" in error and "--max_length" in error
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_onnx_without_its_packages(folder, tmp_path, capsys, monkeypatch):
    from zoo_core.export import onnx_files

    monkeypatch.setattr(onnx_files, "find_spec", lambda name: None)
    error = refused(capsys, "export", folder, tmp_path / "there", "--onnx")
    assert "paddle2onnx and onnxruntime missing" in error and "zoo-core[onnx]" in error
    monkeypatch.undo()
    monkeypatch.setattr(onnx_files, "_MOST", 1000)
    monkeypatch.setattr(onnx_files, "find_spec", lambda name: name)
    assert "at most 2 GB" in refused(capsys, "export", folder, tmp_path / "there", "--onnx", "--max_length", "16")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    from zoo_core.export import write

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_programs", full)
    assert "No space left" in refused(capsys, "export", folder, tmp_path / "there", "--max_length", "16")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_not_whole(exported, folder, tmp_path, capsys):
    questions = tmp_path / "questions.json"
    questions.write_text('{"src": "In"}\n', encoding="utf-8")
    ask = ("run", "predict", "--data_file", questions, "--output_file", tmp_path / "out.json")
    assert "no exported model at" in refused(capsys, *ask, "--static", folder)
    assert "takes no adapter" in refused(capsys, *ask, "--static", exported, "--lora_path", folder)
    beams = ("--decode_strategy", "beam_search", "--num_beams", "4")
    assert "have 3 rows" in refused(capsys, *ask, "--static", exported, *beams)
    assert "is an exported model" in refused(capsys, "sample", exported, "--prompt", "x", "--lora_path", folder)
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    whole = (broken / "export.json").read_text(encoding="utf-8")
    for text in ("{", "[]", "{}", whole.replace('"format": 1', '"format": 7'), whole.replace('"notes"', '"nodes"')):
        (broken / "export.json").write_text(text, encoding="utf-8")
        with pytest.raises(ZooError, match="export the model again"):
            read_exported(broken)
    (broken / "export.json").write_text(whole, encoding="utf-8")
    (broken / "model.decode_79.json").write_text("{", encoding="utf-8")
    assert "cannot read the programs" in refused(capsys, "sample", broken, "--prompt", "In")
    (broken / "model.decode_79.json").unlink()
    assert "model.decode_79.json is missing" in refused(capsys, "sample", broken, "--prompt", "In")


def test_more_than_was_exported_for(exported):
    static = load_static(exported)
    with pytest.raises(ZooError, match="context is 80"):
        static.encode("the " * 100)
    with pytest.raises(ZooError, match="exported for 3 of 80"):
        static.passes().cache(4, 80)
    with pytest.raises(ZooError, match="exported for 3 of 80"):
        static.passes().cache(1, 81)
