"""What the READMEs say is so: paths exist, commands and code run, tables come from the code, both languages agree."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate_readme.py"))
TEXTS = {language: path.read_text(encoding="utf-8") for language, path in GENERATOR["READMES"].items()}
LANGUAGES = list(TEXTS)


def blocks(language, kind):
    """The fenced blocks of one kind: "" for commands, "python" for code."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXTS[language], re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == kind]


def tree(language):
    """The paths that the annotated tree names."""
    (block,) = (block for block in blocks(language, "") if block.startswith("zoo_core/"))
    found, parent = [], ""
    for line in block.splitlines():
        name = line.split()[0]
        parent = parent if line.startswith(" ") else name
        found.append(parent + name if line.startswith(" ") else name)
    return found


def commands(language):
    return [line for block in blocks(language, "") for line in block.splitlines() if re.match(r"(zoo|make|pip) ", line)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_generated_parts_are_up_to_date(language):
    assert TEXTS[language] == GENERATOR["rewritten"](language), "run python docs/generate_readme.py"


DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "ops/*.md", "plugins/*/*.md", "plugins/*/tests/golden/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("https://") and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tree_is_the_repository(language):
    named = tree(language)
    assert [name for name in named if not (ROOT / name).exists()] == []
    rooms = {f"zoo_core/{path.parent.name}/" for path in ROOT.glob("zoo_core/*/__init__.py")}
    plugins = {f"plugins/{path.parent.name}/" for path in ROOT.glob("plugins/*/pyproject.toml")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    folders = {f"{name.partition('/')[0]}/" for name in tracked if "/" in name and not name.startswith(".")}
    unnamed = {name for name in rooms | plugins | folders if not any(other.startswith(name) for other in named)}
    assert not unnamed


def test_both_languages_say_the_same():
    headings = [re.findall(r"^(#+) ", TEXTS[language], re.MULTILINE) for language in LANGUAGES]
    assert headings[0] == headings[1] and len(headings[0]) > 8
    assert commands("en") == commands("zh") and len(commands("en")) > 8
    assert tree("en") == tree("zh")
    links = [
        {link.replace(f"docs/{language}/", "docs/") for link in re.findall(r"\]\(([^)]+)\)", TEXTS[language])}
        - {"README.md", "README.zh-CN.md"}
        for language in LANGUAGES
    ]
    assert links[0] == links[1]
    code = [[re.sub(r"  # .*", "", block) for block in blocks(language, "python")] for language in LANGUAGES]
    assert code[0] == code[1]
    words = [sorted(set(re.findall(r"`([^`\n]+)`", TEXTS[language]))) for language in LANGUAGES]
    assert words[0] == words[1]


def test_the_code_runs():
    (code,) = blocks("en", "python")
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(logits.shape)"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8 processes" in done.stdout and "[1, 3, 512]" in done.stdout


def test_make_has_the_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)$|`make ([a-z]+)`", TEXTS["en"], re.MULTILINE))
    assert len(targets) > 3
    for target in map("".join, targets):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def cut_short(words):
    """The words of a command, with those that make it quick: few steps, few samples, processes only planned."""
    if words[0] == "compress":
        return [*words, "--samples", "4", "--eval_samples", "2"]
    if words[0] == "eval":
        return [*words, "--limit", "3"]
    if words[0] != "run" or words[1] == "predict":
        return words
    steps = "5" if "--resume" in words else "4"
    return [*words, "--dry_run"] if "--nproc" in words else [*words, "--max_steps", steps, "--save_steps", "2"]


def serve(words, folder, environ):
    """Start a server on ports that are free, end it as soon as it serves, and return what it said."""
    words = [sys.executable, "-m", "zoo_core", *words, "--port", "0", "--web_port", "0"]
    with subprocess.Popen(
        words, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        late, said = threading.Timer(120, server.kill), ""
        late.start()
        for line in server.stdout:
            said += line
            if "chat at http" in line:
                server.terminate()
        late.cancel()
    assert server.returncode == 0, said
    return said


def test_the_first_run_as_it_is_written(tmp_path):
    """Literally, except that runs are cut short and four processes are only planned."""
    ran = []
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "questions.json").write_text('{"src": "What is the plural of fox?"}\n', encoding="utf-8")
    for line in commands("en"):
        name, *words = shlex.split(line)
        with_users_file = words[:2] == ["run", "pretrain"] and any(w.endswith((".json", ".yaml")) for w in words)
        if name != "zoo" or with_users_file:
            continue
        if words[0] == "serve":
            ran.append((words, serve(words, tmp_path, environ)))
            continue
        words = cut_short(words)
        done = subprocess.run(
            [sys.executable, "-m", "zoo_core", *words],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        ran.append((words, done.stdout))
    said = {" ".join(words[:2]): out for words, out in ran}
    assert said["sample out"].startswith("In the beginning")
    assert "/v1" in said["serve tuned"]
    answers = [(tmp_path / name).read_text(encoding="utf-8") for name in ("answers.json", "exported.json")]
    assert answers[0] == answers[1] and '"src": "What is the plural of fox?"' in answers[0]
    assert "4 processes" in next(out for words, out in ran if "--dry_run" in words)
    assert (tmp_path / "out" / "loss.png").is_file() and (tmp_path / "out" / "checkpoint-4").is_dir()
    rows = (tmp_path / "out" / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 5, "the resumed run did not go on from step 4"
