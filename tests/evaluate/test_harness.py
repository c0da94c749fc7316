"""The model that lm-evaluation-harness runs: whole tasks, conversations, adapters, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo_core import ZooError
from zoo_core.cli import main
from zoo_core.errors import ConfigError
from zoo_core.generate import Sampling
from zoo_core.generate.scoring import score_rows

pytest.importorskip("lm_eval")

GOLDEN = Path(__file__).parent / "golden"
NUMBERS = json.loads((GOLDEN / "numbers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def zoo(folder):
    from zoo_core.evaluate.harness import ZooLM

    return ZooLM(str(folder), batch_size="4", device="cpu")


def requests(*arguments):
    return [SimpleNamespace(args=given) for given in arguments]


def test_the_command_lm_eval_gives_what_it_gives_with_hf(tmp_path):
    """lm-eval's own command, as it is installed, offline."""
    tasks = "golden_choice,golden_rolling,golden_generate"
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "zoo", "--model_args", "pretrained=tiny"]
    words = ["--batch_size", "2", "--tasks", tasks, "--include_path", "tasks", "--num_fewshot", "0", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, *words, "--output_path", str(tmp_path / "out")], cwd=GOLDEN, env={**os.environ, **offline},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    for task, numbers in NUMBERS["tasks"].items():
        assert {name: found[task][name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
    (samples,) = (tmp_path / "out").rglob("samples_golden_generate_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["resps"][0][0] for line in lines]
    assert len(answers) == 5 and all("\n" not in text for text in answers) and any(answers)


def test_other_starts_of_python_import_nothing():
    """The start-up file acts when the command line names lm_eval, and imports nothing of lm-eval then."""
    show = "import sys; print([name for name in sys.modules if 'zoo' in name or 'lm' + '_eval' in name])"
    for words, loaded in (((), False), (("-m", "other"), False), (("lm_eval",), True), (("a/lm-eval",), True)):
        out = subprocess.run([sys.executable, "-c", show, *words], capture_output=True, text=True, check=True).stdout
        assert "'zoo_core.evaluate.startup'" in out and "'lm_eval" not in out if loaded else out == "[]\n"


def test_a_name_that_lm_eval_has_read_by_itself_stays():
    show = (
        "import sys, lm_eval.models, lm_eval.api.registry as r; print(r.model_registry.items()); "
        "import zoo_core.evaluate.startup as s; r.model_registry._objs['zoo'] = 'other:Model'; s._add(); "
        "print(r.model_registry._objs['zoo'], any(isinstance(one, s.ModelFinder) for one in sys.meta_path))"
    )
    out = subprocess.run([sys.executable, "-c", show, "lm_eval"], capture_output=True, text=True, check=True).stdout
    assert "('zoo', 'zoo_core.evaluate.harness:ZooLM')" in out and out.splitlines()[-1] == "other:Model False"


def test_continuations_of_one_token_share_a_row_and_keep_their_values(zoo, monkeypatch):
    from zoo_core.generate import scoring

    pairs = [("In the beginning", " God"), ("In the beginning", "G"), ("In the beginning", "c"), ("earth", " God")]
    alone = [zoo.loglikelihood(requests(pair), disable_tqdm=True)[0] for pair in pairs]
    rows = []

    def counted(engine, given, **more):
        rows.extend(given)
        return score_rows(engine, given, **more)

    monkeypatch.setattr(scoring, "score_rows", counted)
    together = zoo.loglikelihood(requests(*pairs), disable_tqdm=True)
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], abs=1e-5)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    ones = [pair for pair in pairs if len(zoo._pair(*pair)[1]) == 1]
    assert len(ones) > 1 and len(rows) == len(pairs) - len([pair for pair in ones if pair[0] == pairs[0][0]]) + 1


def test_the_greedy_token_is_said_to_be_greedy(zoo):
    ids = zoo.model.encode("In the beginning")
    best = score_rows(zoo.model.engine, [[*ids, 0]], top=1)[0].top_ids[-1, 0]
    groups = [(ids, [int(best)]), (ids, [int(best) - 1])]
    assert [greedy for _, greedy in zoo._score(groups, True)] == [True, False]


def test_a_conversation_is_the_family_s_own(zoo, monkeypatch):
    tokenizer, end = zoo.model.tokenizer, zoo.model.tokenizer.eos_id

    def chat(messages):
        """A form whose ids are not those of its text: every character is encoded by itself."""
        said = [[token for letter in one["content"] for token in tokenizer.encode(letter)] for one in messages]
        return [token for ids in said for token in [*ids, end]]

    monkeypatch.setattr(tokenizer, "chat", chat, raising=False)
    messages = [{"role": "user", "content": "In the beginning"}]
    text = zoo.apply_chat_template(messages)
    ids = zoo.model.chat_ids(messages)
    assert ids != tokenizer.encode(text)
    before, after = zoo._pair(text, "God")
    assert before == ids and after == zoo.model.tokenizer.encode("God")
    begun = zoo.apply_chat_template([*messages, {"role": "assistant", "content": "God"}], add_generation_prompt=False)
    assert zoo._pair(begun, "!")[0] == [*ids, *zoo.model.tokenizer.encode("God")]
    found = zoo.generate_until(requests((text, {"until": [], "max_gen_toks": 5})), disable_tqdm=True)
    assert found == ["".join(zoo.model.answer(ids, zoo.model.rules(Sampling(0.0), chat=True), 5))]
    assert zoo.chat_template(True) and not zoo.chat_template(False) and "/" not in zoo.tokenizer_name


def test_sampling_is_that_of_its_seed(zoo):
    given = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = requests(("In the", given), ("In the", given), ("God", {"until": [], "max_gen_toks": 3}))
    first = zoo.generate_until(asked, disable_tqdm=True)
    assert first == zoo.generate_until(asked, disable_tqdm=True) and first[0] != first[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"max_gen_toks": 256}, "asks for 256 new tokens"),
        ({"temperature": -1.0, "do_sample": True}, "temperature is -1.0"),
    ],
)
def test_what_a_task_may_not_ask_for(zoo, arguments, said):
    with pytest.raises(ConfigError, match=said):
        zoo.generate_until(requests(("In the", arguments)), disable_tqdm=True)


def test_what_cannot_be_scored(zoo):
    for pair, said in ((("In the", ""), "no tokens"), (("In the", "God " * 300), "at most 256")):
        with pytest.raises(ConfigError, match=said):
            zoo.loglikelihood(requests(pair), disable_tqdm=True)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("max_length", 257), ("dtype", "bfloat16")])
def test_wrong_arguments(folder, name, value):
    from zoo_core.evaluate.harness import ZooLM

    with pytest.raises(ZooError, match=f"{name} is {value}"):
        ZooLM(str(folder), device="cpu", **{name: value})


def test_weights_that_are_no_numbers(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    from zoo_core.evaluate.harness import ZooLM

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, file, {"format": "pt"})
    model = ZooLM(str(broken), device="cpu")
    with pytest.raises(ConfigError, match="not numbers"):
        model.loglikelihood(requests(("In the", "God")), disable_tqdm=True)
    with pytest.raises(ConfigError, match="not numbers"):
        model.generate_until(requests(("In the", {"until": []})), disable_tqdm=True)


def test_the_device_that_lm_eval_says_by_itself_is_the_one_there_is(folder):
    from zoo_core.evaluate.harness import ZooLM

    assert ZooLM(str(folder), device="cuda:0").batch_size == 8


def test_lm_eval_finds_the_model_by_its_entry_point():
    (found,) = entry_points(group="lm_eval.models", name="zoo")
    from zoo_core.evaluate.harness import ZooLM

    assert found.load() is ZooLM


def test_the_command_hands_its_words_to_lm_eval(monkeypatch):
    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.extend(sys.argv))
    words = ["--tasks", "a", "--include_path", "b", "--limit", "3"]
    before = list(sys.argv)
    assert main(["eval", "harness", "./a,b=c", "--lora_path", "x", *words]) == 0
    assert seen[:4] == ["lm_eval", "run", "--model", "zoo"] and seen[-6:] == words and sys.argv == before
    given = json.loads(seen[seen.index("--model_args") + 1])
    assert given == {"pretrained": "./a,b=c", "dtype": "float32", "lora_path": "x"}
    from lm_eval.api.registry import get_model

    from zoo_core.evaluate.harness import ZooLM

    assert get_model("zoo") is ZooLM


def test_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("zoo_core.evaluate.commandline.find_spec", lambda name: None)
    assert main(["eval", "harness", "x", "--tasks", "a"]) == 2
    assert 'pip install "zoo-core[eval]"' in capsys.readouterr().err
