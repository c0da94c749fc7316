"""Text from models: the cache changes nothing, and `zoo sample` says what is wrong."""

from __future__ import annotations

import shutil

import numpy as np
import paddle
import pytest

from zoo_core import ZooError
from zoo_core.cli import main
from zoo_core.generate import Sampling, load_model
from zoo_ops import Batch


def test_greedy_text_is_that_of_the_model_without_cache(folder, bpe):
    model = load_model(folder)
    prompt = "In the beginning"
    ids = model.encode(prompt)
    from zoo_core import find
    from zoo_core.testing.models import build, random_weights

    arch = find(str(folder)).architecture
    alone = build(arch, model.config, random_weights(arch.table(model.config)))
    alone.eval()
    for _ in range(12):
        with paddle.no_grad():
            logits = alone(Batch(paddle.to_tensor([ids]))).logits[0, -1].numpy()
        ids.append(int(logits[: bpe.vocab_size].argmax()))
    wanted = bpe.decode(ids[len(model.encode(prompt)) :])
    assert "".join(model.sample(prompt, 12)) == wanted


def test_tokens_stop_where_the_context_ends(folder, bpe):
    model = load_model(folder)
    room = model.config.max_position_embeddings
    prompt = bpe.decode(bpe.encode("the heaven and the earth " * 40)[: room - 4])
    used = len(model.encode(prompt))
    assert room - 4 <= used < room
    assert len(list(model.sample(prompt, 50))) <= room - used + 1  # a piece for each token, and the end
    with pytest.raises(ZooError, match=f"context is {room}"):
        model.encode("the " * room)


def test_the_command_prints_prompt_and_text(folder, capsys):
    words = ["sample", str(folder), "--prompt", "In the", "--max_new_tokens", "8", "--seed", "3"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith("In the") and first.endswith("\n") and len(first) > len("In the\n")
    assert main([*words[:-1], "3"]) == 0 and capsys.readouterr().out == first
    assert main([*words[:-1], "4"]) == 0 and capsys.readouterr().out != first


def test_greedy_on_the_command_line_is_top_k_1(folder, capsys):
    words = ["sample", str(folder), "--prompt", "God", "--max-new-tokens", "8"]
    assert main([*words, "--temperature", "0"]) == 0
    greedy = capsys.readouterr().out
    assert main([*words, "--top_k", "1", "--seed", "9"]) == 0 and capsys.readouterr().out == greedy


def refused(capsys, *words):
    status = main(["sample", *words])
    out, err = capsys.readouterr()
    assert status == 2 and out == "", (status, out)
    return err


def test_refusals(folder, bpe, tmp_path, capsys):
    assert "no weights of" in refused(capsys, "nothing-here", "--prompt", "x")
    assert "top_p is 2.0" in refused(capsys, str(folder), "--prompt", "x", "--top_p", "2")
    assert "needs a GPU" in refused(capsys, str(folder), "--prompt", "x", "--device", "cpu", "--dtype", "bfloat16")
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    assert "--tokenizer PATH" in refused(capsys, str(bare), "--prompt", "x")
    (bare / "model.safetensors").rename(tmp_path / "elsewhere")
    assert "no weights of" in refused(capsys, str(bare), "--prompt", "x")


def test_a_tokenizer_of_another_model(folder, tmp_path, capsys):
    from zoo_core.tokenizers import train_bpe

    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i:04}" for i in np.random.default_rng(0).permutation(9999)), encoding="utf-8")
    train_bpe([text], 900, tmp_path)
    assert "not the model's" in refused(
        capsys, str(folder), "--prompt", "w0001 w4567 w9998 w1234", "--tokenizer", str(tmp_path)
    )


def test_an_empty_prompt_begins_with_the_token_of_the_family(folder):
    model = load_model(folder)
    assert model.encode("") == [model.tokenizer.bos_id]
    assert list(model.sample("", 3, Sampling(0.0))) != []


def test_stop_texts_penalties_and_beams_on_the_command_line(folder, capsys):
    def text(*more):
        assert main(["sample", str(folder), "--prompt", "In the", "--max_new_tokens", "12", *more]) == 0
        return capsys.readouterr().out

    greedy = text("--temperature", "0")
    stop = greedy[len("In the") + 1]
    assert text("--temperature", "0", "--stop", stop, "--stop", "nothing") == greedy[: greedy.index(stop, 6)] + "\n"
    assert text("--temperature", "0", "--repetition_penalty", "50") != greedy
    assert text("--min_p", "1") == greedy
    assert text("--num_beams", "3") == text("--num_beams", "3")
    assert "num_beams 3 with sampling" in refused(
        capsys, str(folder), "--prompt", "x", "--num_beams", "3", "--top_k", "5"
    )
    assert "num_beams 3 with stop" in refused(capsys, str(folder), "--prompt", "x", "--num_beams", "3", "--stop", "a")
