"""A small model that chats, with random weights, and a file of questions of every form."""

from __future__ import annotations

import json
import random

import pytest

from zoo_core import find
from zoo_core.checkpoint import save_hf, whole_tensors
from zoo_core.tokenizers import train_bpe

TEXT = "In the beginning God created the heaven and the earth.\n床前明月光,疑是地上霜。\nuser: assistant: system: \n"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WORDS = "In the beginning God created heaven and earth 床前 明月光".split()


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return train_bpe([folder / "text.txt"], 290, folder)


def save_model(path, bpe, template=TEMPLATE, model="facebook/llama-7b"):
    from zoo_core.testing.models import random_weights

    found = find(model)
    tiny = found.architecture.capabilities.scales["tiny"]
    config = found.config.replace(**{**tiny, "max_position_embeddings": 96})
    table = found.architecture.table(config)
    files = {file.name: file for file in bpe.files}
    tensors = whole_tensors(table, random_weights(table), "float32")
    save_hf(path, tensors, table=table, config=config, dtype="float32", files=files)
    if template:
        (path / "chat_template.jinja").write_text(template)
    return path


@pytest.fixture(scope="session")
def folder(bpe, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "weights", bpe)


@pytest.fixture(scope="session")
def base(bpe, tmp_path_factory):
    """The same without a chat template."""
    return save_model(tmp_path_factory.mktemp("model") / "base", bpe, template="")


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """20 lines: of one turn or several, with answers or not, messages, texts, and one that is too long."""
    dice, path = random.Random(1), tmp_path_factory.mktemp("data") / "questions.jsonl"

    def text(most=9):
        return " ".join(dice.choices(WORDS, k=dice.randint(1, most)))

    lines = [{"src": text(), **({"tgt": text()} if number % 2 else {})} for number in range(13)]
    lines += [{"src": [text(2), text(2)], "tgt": [text(2)]}, {"src": [text(2), text(2)], "tgt": [text(2), text(2)]}]
    lines += [{"messages": [{"role": "system", "content": "God"}, {"role": "user", "content": text(4)}]}]
    lines += [{"prompt": "In the"}, {"prompt": ""}, {"src": text(200)}, {"src": "half \ud83d", "tgt": ""}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return path
