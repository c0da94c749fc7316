"""`zoo matrix` and `zoo capabilities`: what they print, and how quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from zoo_core.capabilities import CELLS, Exclusion
from zoo_core.cli import capabilities, matrix
from zoo_core.errors import ZooError
from zoo_core.matrix import LIMITS
from zoo_core.registry import Registry, registry


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """The core lacks LoRA in these tests, whatever it lacks today."""
    monkeypatch.setitem(LIMITS, "lora", "LoRA")


def printed(command, capsys, *words):
    assert command.main(words, False) == 0
    return capsys.readouterr().out


def test_the_matrix_fits_a_terminal(capsys):
    lines = printed(matrix, capsys).splitlines()
    assert max(map(len, lines)) <= 120
    head = lines[0].split()
    assert head[-len(registry().architectures) :] == [a.family for a in registry().architectures]
    assert [line.split()[0] for line in lines[1 : len(CELLS) + 2] if line] == list(CELLS)
    (lora,) = (line for line in lines if line.startswith("lora "))
    assert lora.split()[1:] == ["refused"] * len(registry().architectures)
    assert "refused   lora (every family): zoo-core has no LoRA yet" in lines


def test_more_families_than_fit_stand_below_each_other(capsys, fake_family, monkeypatch):
    plugins = {f"family{i}": fake_family.plugin(f"family{i}", (f"zoo/m{i}",)) for i in range(20)}
    monkeypatch.setattr(matrix, "registry", lambda: Registry(plugins))
    lines = printed(matrix, capsys).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("pretrain ") for line in lines) == 3


def test_one_family(capsys):
    lines = printed(matrix, capsys, "--family", "bloom").splitlines()
    assert "TASK OR STRATEGY" in lines[0] and len(lines) >= len(CELLS) + 1
    (flash,) = (line for line in lines if line.startswith("flash_attention"))
    assert "not applicable" in flash and "ALiBi" in flash and "(zoo-bloom)" in flash


def test_json_and_markdown(capsys):
    found = json.loads(printed(matrix, capsys, "--json"))["families"]
    assert set(found) == {a.family for a in registry().architectures}
    assert found["llama"]["lora"] == {"state": "refused", "why": "zoo-core has no LoRA yet", "owner": "zoo-core"}
    evidence = found["llama"]["tensor_parallel"]["evidence"]
    assert evidence["tier"] == "T2" and "::" in evidence["test"] and evidence["versions"]["paddle"]
    text = printed(matrix, capsys, "--markdown", "--family", "llama")
    assert text.startswith("| family | pretrain |") and "| llama |" in text and "| qwen |" not in text


def test_a_model_may_stand_otherwise_than_its_family(capsys):
    def flash(name):
        return json.loads(printed(capabilities, capsys, name, "--json"))["cells"]["flash_attention"]

    assert flash("baichuan-inc/Baichuan-7B") == {"state": "declared", "why": "a GPU"}
    assert flash("baichuan-13b-chat")["state"] == "not applicable"
    assert "ALiBi" in flash("Baichuan2-13B-Chat")["why"]
    assert flash("thudm/chatglm-6b")["state"] == "not applicable" and flash("THUDM/chatglm2-6b")["state"] == "declared"


def test_the_capabilities_of_a_model(capsys, monkeypatch):
    text = printed(capabilities, capsys, "qwen/qwen-7b")
    lines = text.splitlines()
    assert lines[0] == "qwen/qwen-7b, of the family qwen (zoo-qwen 0.1.0)"
    assert [line.split()[0] for line in lines[2 : len(CELLS) + 2]] == list(CELLS)
    (tensor,) = (line for line in lines if line.startswith("tensor_parallel"))
    assert "T2, 2" in tensor and "tests/parallel/" in tensor
    assert "recorded on cpu with paddle 3" in text

    found = registry().find("qwen/qwen-7b")
    pair = (Exclusion("lora", "offload", "never tried"),)
    excluding = replace(found.architecture.capabilities, exclusions=pair)
    monkeypatch.setattr(found.architecture, "capabilities", excluding)
    assert "lora does not combine with offload: never tried" in printed(capabilities, capsys, "qwen/qwen-7b")
    assert json.loads(printed(capabilities, capsys, "qwen/qwen-7b", "--json"))["exclusions"] == [
        {"first": "lora", "second": "offload", "why": "never tried"}
    ]


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (matrix, ["--famly", "llama"], "did you mean --family?"),
        (matrix, ["--family", "lama"], "did you mean 'llama'?"),
        (capabilities, [], "needs a model"),
        (capabilities, ["qwen/qwen-8b"], "did you mean"),
        (capabilities, ["qwen/qwen-7b", "--jsn"], "did you mean --json?"),
    ],
)
def test_mistakes(command, words, said):
    with pytest.raises(ZooError) as caught:
        command.main(words, False)
    assert said in str(caught.value)


def test_damaged_evidence_is_said(capsys, monkeypatch, tmp_path):
    found = registry().family("llama")
    (tmp_path / "evidence.json").write_text("{")
    monkeypatch.setattr(found, "folder", tmp_path)
    with pytest.raises(ZooError) as caught:
        matrix.main([], False)
    assert "evidence.json" in str(caught.value)


def test_they_are_quick_without_paddle():
    code = "import sys, zoo_core.cli as c; s = c.main(['matrix']); print(s, 'paddle' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0", "False"] or done.stderr.split()[-2:] == ["None", "False"]
    assert "tensor_parallel" in done.stdout
