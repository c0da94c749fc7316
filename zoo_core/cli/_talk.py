"""The talk of `zoo chat`: lines of a terminal or of a pipe, commands among them, answers as they come. No paddle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from zoo_core.cli._conversation import Conversation, Settings
from zoo_core.errors import ZooError, nearest
from zoo_core.generate.choice import Sampling
from zoo_core.generate.rules import Rules
from zoo_core.tokenizers import Message

__all__ = ["HELP", "Speaker", "Talk", "typed_lines", "with_history"]

HELP = """commands:
  /reset              forget the conversation, but for what /system said
  /undo               take the last question and its answer back
  /system TEXT        tell the model something beforehand; /system shows it, /system none takes it back
  /save FILE          write the conversation, as a line of JSON that fine-tuning reads, too
  /load FILE          go on with a conversation that was saved
  /set NAME VALUE     change a setting; /set shows them
  /help               this
  /exit               leave; so does Ctrl-D
A line that ends with \\ goes on in the next; lines between two lines of \"\"\" belong together.
A question that begins with / begins with //. Ctrl-C stops an answer."""

_COMMANDS = ("reset", "undo", "system", "save", "load", "set", "help", "exit")
_BLOCK = '"""'
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
"""What a terminal would obey instead of showing it; lines and tabs are not among it."""

_PROBE: Message = {"role": "user", "content": "a"}


class Speaker(Protocol):
    """A model that chats; `zoo_core.generate.answering.TextBase` is one."""

    @property
    def context(self) -> int:
        """Tokens of the longest text."""

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation."""

    def rules(self, sampling: Sampling, *, chat: bool = False) -> Rules:
        """Return what holds for an answer."""

    def answer(self, ids: Sequence[int], rules: Rules, max_new_tokens: int, seed: int = 0) -> Iterator[str]:
        """Yield an answer, piece by piece."""


def typed_lines(source: TextIO, first: str = "", more: str = "") -> Iterator[str]:
    """Yield what is typed, lines that belong together as one; an interrupted line is given up.

    Args:
        source: standard input; where it is a terminal, it is read with editing and history.
        first, more: prompts on a terminal.
    """
    held: list[str] = []
    block = False
    while True:
        try:
            line = _read(source, more if held or block else first)
        except KeyboardInterrupt:
            if source.isatty():
                print(file=sys.stderr)
            held, block = [], False
            continue
        if line is None:
            if held:
                yield "\n".join(held)
            return
        if line.strip() == _BLOCK:
            block = not block
            if not block:
                yield "\n".join(held)
                held = []
        elif block:
            held.append(line)
        elif line.endswith("\\"):
            held.append(line[:-1])
        else:
            yield "\n".join([*held, line])
            held = []


def _read(source: TextIO, prompt: str) -> str | None:
    """Return a line without its end; `None` at the end of all."""
    if source is sys.stdin and source.isatty():
        try:
            return input(prompt)
        except EOFError:
            print(file=sys.stderr)
            return None
    line = source.readline()
    return line.rstrip("\r\n") if line else None


class Talk:
    """A conversation with a model.

    Args:
        model: who answers.
        settings: how, at first.
        system: what it is told beforehand.
        out: where answers go.
        note: says what is not an answer.

    Raises:
        TokenizerError: the model has no form for such conversations.
    """

    def __init__(
        self,
        model: Speaker,
        settings: Settings,
        system: str = "",
        out: TextIO | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.conversation, self.settings = Conversation(system), settings
        self._model, self._out = model, out or sys.stdout
        self._note = note or (lambda text: print(text, file=sys.stderr, flush=True))
        self._answers = self._left_out = 0
        model.chat_ids([*self.conversation.head, _PROBE])

    def take(self, line: str) -> bool:
        """Do what a line says, or answer it; returns whether the talk goes on. What goes wrong is said."""
        text = line.strip()
        try:
            if text.startswith("/") and not text.startswith("//"):
                return self._command(*(text[1:].split(maxsplit=1) or [""]))
            if text:
                self._answer(text[1:] if text.startswith("//") else text)
        except ZooError as error:
            self._note(f"error: {error}")
        return True

    def _answer(self, question: str) -> None:
        talk = self.conversation
        talk.ask(question)
        said: list[str] = []
        try:
            fitted = talk.fitted(self._model.chat_ids, self._model.context, self.settings.max_new_tokens)
            self._tell_of(fitted.left_out)
            seed = self.settings.seed + self._answers
            rules = self._model.rules(self.settings.sampling, chat=True)
            pieces = self._model.answer(fitted.ids, rules, self.settings.max_new_tokens, seed)
            for piece in pieces:
                shown = piece if said else piece.lstrip()
                if shown:
                    said.append(shown)
                    self._out.write(shown.translate(_CONTROLS) if self._out.isatty() else shown)
                    self._out.flush()
            self._end_line(said)
            if not said:
                self._note("(no answer: the model ended at once)")
        except KeyboardInterrupt:
            self._end_line(said)
            self._note("(stopped)")
        finally:
            self._answers += 1
            talk.answer("".join(said).strip())

    def _end_line(self, said: Sequence[str]) -> None:
        """A line for each answer, an empty one for none."""
        if not (said and said[-1].endswith("\n")):
            self._out.write("\n")
        self._out.flush()

    def _tell_of(self, left_out: int) -> None:
        if left_out > self._left_out:
            rounds = "round is" if left_out == 1 else f"{left_out} rounds are"
            self._note(f"(the oldest {rounds} not read any more: the context has {self._model.context} tokens)")
        self._left_out = left_out

    def _command(self, name: str, rest: str = "") -> bool:
        if name in ("exit", "quit"):
            return False
        if name not in _COMMANDS:
            near = nearest(name, _COMMANDS)
            todo = f"did you mean /{near}?" if near else "/help lists them; // begins a question with /"
            raise ZooError(f"there is no command /{name}", "", todo)
        self._note(getattr(self, f"_{name}")(rest.strip()))
        return True

    def _help(self, rest: str) -> str:
        return HELP

    def _reset(self, rest: str) -> str:
        self.conversation.messages.clear()
        self._left_out = 0
        return "(the conversation begins anew)"

    def _undo(self, rest: str) -> str:
        question = self.conversation.undo()
        return f"(taken back: {question})" if question else "(there is nothing to take back)"

    def _system(self, rest: str) -> str:
        if rest:
            before, self.conversation.system = self.conversation.system, "" if rest == "none" else rest
            try:
                self._model.chat_ids([*self.conversation.head, _PROBE])
            except ZooError:
                self.conversation.system = before
                raise
        return f"(system: {self.conversation.system or 'nothing'})"

    def _save(self, rest: str) -> str:
        file = _file(rest, "save")
        self.conversation.save(file)
        return f"(saved to {file})"

    def _load(self, rest: str) -> str:
        file = _file(rest, "load")
        self.conversation, self._left_out = Conversation.load(file), 0
        return f"(loaded {len(self.conversation.messages) // 2} rounds of {file})"

    def _set(self, rest: str) -> str:
        if rest:
            name, _, value = rest.replace("=", " ").partition(" ")
            self.settings = self.settings.changed(name, value.strip())
        return str(self.settings)


def _file(text: str, command: str) -> Path:
    if not text:
        raise ZooError(f"/{command} needs a file", "", f"/{command} FILE")
    return Path(text).expanduser()


def with_history() -> None:
    """Let a terminal's lines be edited and found again, where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401
