"""Chat templates: the Jinja program that a model's files bring along, run in a sandbox.

The environment is the one templates are written for: blocks trimmed, `raise_exception`, `strftime_now`, a `tojson` that
escapes nothing, the special tokens' texts as variables.

A template makes one text, in which special tokens are spelt out, so a message could spell one too and end its own turn.
Here each special token in a message is put between marks before the template runs, and comes out as a piece of its own.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers.base import Message
from zoo_core.tokenizers.chat import check_messages
from zoo_core.tokenizers.files import library

__all__ = ["TEMPLATE_FILE", "ChatTemplate", "read_template", "token_text"]

TEMPLATE_FILE = "chat_template.jinja"
_SAFE_JINJA = (3, 1, 6)
"""Earlier versions have known ways out of the sandbox, and a template is a program from elsewhere."""

_START, _END = "\ufdd0", "\ufdd1"
"""Two of the code points that Unicode keeps free for a program's own marks."""


def token_text(entry: Any) -> str | None:
    """Return the text of a special token, which files spell as text or as an object with its `content`."""
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    return text if isinstance(text, str) else None


def read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the template of `chat_template.jinja`, else the one in `tokenizer_config.json`; None without either.

    Raises:
        TokenizerError: the file is not UTF-8, or the entry is neither text nor a list with one named "default".
    """
    file = folder / TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"cannot read {file}", str(error), "fetch it again") from error
    entry = config.get("chat_template")
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
        entry = named.get("default", named)
    if entry is None or isinstance(entry, str):
        return entry
    raise TokenizerError(
        f"cannot use the chat_template of {folder / 'tokenizer_config.json'}",
        "it is neither text nor a list of templates with one named 'default'",
        f"put the template wanted into {folder / TEMPLATE_FILE}",
    )


class ChatTemplate:
    """A compiled template.

    Args:
        source: the template.
        path: the tokenizer's file, for messages.
        config: the tokenizer's config, whose special tokens the template sees as variables.
        special: the texts that become special tokens.

    Raises:
        TokenizerError: jinja2 is missing or too old for an untrusted template, or the template has an error.
    """

    def __init__(self, source: str, path: Path, config: Mapping[str, Any], special: Sequence[str]) -> None:
        self._path = path
        longest_first = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"
        self._special = re.compile(longest_first)
        self._marked = re.compile(f"{_START}({longest_first}){_END}|[{_START}{_END}]")
        self._variables = {
            name: text
            for name, entry in config.items()
            if name.endswith("_token") and (text := token_text(entry)) is not None
        }
        self._jinja = library("jinja2", path)
        version = str(self._jinja.__version__)
        if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < _SAFE_JINJA:
            raise TokenizerError(
                f"cannot run the chat template of {path.parent}",
                f"jinja2 {version} has known ways out of its sandbox",
                "pip install 'jinja2>=3.1.6'",
            )
        environment = library("jinja2.sandbox", path).ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_blocks()]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = self._raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except self._jinja.TemplateError as error:
            raise TokenizerError(f"the chat template of {path.parent} has an error", str(error), "repair it") from error

    def _raise(self, message: str) -> None:
        raise self._jinja.TemplateError(message)

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Return the conversation's text in pieces, each with whether it is a special token that a message spelt.

        Such a piece is to be encoded as plain text, the others with the special tokens that the template spelt.

        Raises:
            TokenizerError: `messages` is no conversation, or the template refuses it or fails.
        """
        check_messages(messages)
        try:
            text = self._template.render(
                messages=[{key: self._mark(value) for key, value in message.items()} for message in messages],
                add_generation_prompt=messages[-1]["role"] == "user",
                tools=None,
                documents=None,
                **self._variables,
            )
        except Exception as error:  # a template is a program and can raise anything
            raise TokenizerError(
                f"the chat template of {self._path.parent} refuses the conversation",
                f"{type(error).__name__}: {error}",
                "write the conversation as the model expects it",
            ) from error
        # A mark that the template parted from its token still separates, so `split` gives text and token in turn.
        pieces = [(piece or "", number % 2 == 1) for number, piece in enumerate(self._marked.split(str(text)))]
        return [(piece, spelt) for piece, spelt in pieces if piece]

    def _mark(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return self._special.sub(f"{_START}\\g<0>{_END}", value.replace(_START, "").replace(_END, ""))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _generation_blocks() -> Any:
    """Return the extension for `{% generation %}` blocks, which mark answers for training: here they are transparent.

    Made in a function because its base class is jinja2's, which is optional.
    """
    from jinja2.ext import Extension

    class Generation(Extension):  # type: ignore[misc, unused-ignore]
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
