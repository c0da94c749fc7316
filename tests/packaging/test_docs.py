"""The documents are what the code says, lead nowhere wrong, agree between languages, and their commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402
import words  # noqa: E402

from zoo_core.cli._commands import COMMANDS  # noqa: E402

PAGES = sorted(path.name for path in (DOCS / "en").glob("*.md"))


def text_of(language, name):
    return (DOCS / language / name).read_text(encoding="utf-8")


def blocks(text):
    """(kind, content) of each fenced block."""
    return re.findall(r"^```(\w*).*?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def headings(text):
    """The levels of its headings."""
    return re.findall(r"^(#+) ", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def without_comments(kind, content):
    return (
        re.sub(r"(?m)(^|\s+)#.*$|\"\"\".*?\"\"\"", "", content) if kind in ("python", "sh", "toml", "yaml") else content
    )


@pytest.fixture(scope="module")
def generated():
    return generate.documents()


def test_pages_are_what_the_code_says(generated):
    stale = [str(path) for path, text in generated.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python docs/generate.py"
    assert {path.name for path in generated} >= {"arguments.md", "hooks.md", "errors.md", "matrix.md"}


def test_every_generated_sentence_has_its_chinese(generated):
    chinese = words.words("zh")
    assert not chinese.missing, "add them to docs/zh.yaml"
    assert not set(chinese.known) - chinese.used, "docs/zh.yaml: needed no more"


@pytest.mark.parametrize("name", PAGES)
def test_both_languages_show_the_same_code(name):
    english, chinese = text_of("en", name), text_of("zh", name)
    assert [without_comments(*block) for block in blocks(english)] == [
        without_comments(*block) for block in blocks(chinese)
    ]
    levels = [
        re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M) for text in (english, chinese)
    ]
    assert levels[0] == levels[1]
    assert re.search(r"[\u4e00-\u9fff]{4}", chinese)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^  - .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == PAGES


def build(config, site):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_site_builds_and_needs_no_network(tmp_path):
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert pages == {name.replace(".md", ".html") for name in PAGES} | {"404.html"}
    assert pages - {"404.html"} == {path.name for path in (tmp_path / "site" / "zh").glob("*.html")}
    for path in (tmp_path / "site").rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(\S+)|<link[^>]*\shref=\"?(\S+)", html)
        assert not [url for pair in loaded for url in pair if re.match(r"(https?:)?//", url)], path


def test_a_broken_link_and_a_broken_anchor_fail(tmp_path):
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for language, page in (("en", "errors.md"), ("zh", "index.md")):
        with (tmp_path / "docs" / language / page).open("a", encoding="utf-8") as stream:
            stream.write("\n[a](nowhere.md) [b](concepts.md#no-such-part)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    for page in ("en/errors.md", "zh/index.md"):
        assert re.search(f"'{page}' contains a link 'nowhere.md'", done.stderr)
        assert re.search(f"'{page}' contains a link 'concepts.md#no-such-part'", done.stderr)


def anchors(path):
    """The anchors of a page: GitHub and the site make them from headings alike."""
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    made = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE))
    return {heading.strip().replace(" ", "-") for heading in made}


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_leads_into_the_documents(name):
    links = re.findall(r"\]\((docs/[^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors(ROOT / path), link


def test_every_command_shown_is_one():
    for path in sorted(DOCS.glob("*/*.md")):
        text = path.read_text(encoding="utf-8")
        in_blocks = "".join(content for kind, content in blocks(text) if kind in ("sh", "console"))
        shown = set(re.findall(r"^(?:\$ )?zoo ([a-z][a-z-]*)", in_blocks, re.MULTILINE))
        assert shown | set(re.findall(r"`zoo ([a-z][a-z-]*)", text)) <= set(COMMANDS), path


def test_the_code_of_the_concepts_runs():
    for kind, content in blocks(text_of("en", "concepts.md")):
        if kind == "python":
            exec(content, {})


def commands(name):
    """The commands of a page's `sh` blocks."""
    return [
        shlex.split(line) for kind, text in blocks(text_of("en", name)) if kind == "sh" for line in text.splitlines()
    ]


def zoo(folder, line):
    done = subprocess.run(
        [sys.executable, "-m", "zoo_core", *line[1:]], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The quick start as it is written, cut short: four steps, and four processes are only rehearsed."""
    folder = tmp_path_factory.mktemp("quick-start")
    (settings,) = (text for kind, text in blocks(text_of("en", "quick-start.md")) if kind == "json")
    folder.joinpath("pretrain.json").write_text(settings, encoding="utf-8")
    said = {}
    for line in commands("quick-start.md"):
        if line[0] == "zoo":
            short = ["--max_steps", "4", "--save_steps", "2"]
            more = [] if line[1] != "run" else ["--dry-run"] if "--nproc" in line else short
            said[shlex.join(line)] = zoo(folder, [*line, *more])
    return folder, said


def test_the_quick_start_runs(started):
    folder, said = started
    assert len(said) >= 9
    assert "1 process" in next(out for line, out in said.items() if line.startswith("zoo checkpoint ls"))
    four = [out for line, out in said.items() if "--nproc 4" in line]
    assert len(four) == 2 and all("4 processes" in out for out in four)
    assert any("out/checkpoint-4 (step 4)" in out for out in four)
    assert said["zoo sample out --prompt 'In the beginning'"].startswith("In the beginning")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (folder / "my-model").iterdir()}


@pytest.mark.parametrize("name", ["from-paddlenlp.md", "from-fleetx.md"])
def test_the_migration_commands_run(name, started):
    """The training commands of the pages, with user's files, on the corpus of the quick start."""
    folder, _ = started
    for path in (ROOT / "tests" / "user-configs").glob("*/*"):
        shutil.copy(path, folder)
    (line,) = (line for line in commands(name) if line[:2] == ["zoo", "run"])
    more = ["--dry-run"] if "--nproc" in line else ["--output_dir", name, "--save_strategy", "no"]
    assert "steps" in zoo(folder, [*line, *more])


def test_navigation_is_translated():
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    chinese = config["plugins"][1]["i18n"]["languages"][1]["nav_translations"]
    assert set(chinese) == {title for entry in config["nav"] for title in entry} - {"zoo"}
