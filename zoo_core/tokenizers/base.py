"""What every tokenizer offers, and the few things all kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

__all__ = [
    "REPLACEMENT",
    "BatchTokenizer",
    "ChatTokenizer",
    "Message",
    "PaddingSide",
    "PromptTokenizer",
    "Tokenizer",
    "decode_runs",
    "sound_text",
]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

PaddingSide = Literal["left", "right"]

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    `vocab_size` is the highest id plus one, added tokens included; a model's vocabulary may be padded beyond it.
    `bos_id`, `eos_id` and `pad_id` are None where the family has no such token. `padding_side` is where the family
    fills up the shorter rows of a batch when it trains; generation fills up on the left whatever it says. `files` are
    what `save` copies.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    padding_side: PaddingSide
    files: tuple[Path, ...]

    def encode(self, text: str, add_special_tokens: bool = False, *, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`; half of a surrogate pair, as JSON can spell it, reads as U+FFFD.

        Args:
            add_special_tokens: add what the family adds by itself (bos for Llama, nothing for Qwen).
            parse_special: a special token spelt out in `text` becomes its id; False reads it as plain text, which is
                what a corpus and a user's message want. sentencepiece never parses, so there it has no effect.
        """
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; ids that end within a character, or are unknown, give U+FFFD, never an error."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return one printable string for each id."""
        ...

    def token_id(self, token: str) -> int | None:
        """Return the id of the special token, or the piece, spelt exactly `token`; None if there is none."""
        ...

    def save(self, folder: Path) -> list[Path]:
        """Copy the tokenizer's files into `folder`, so that `load_tokenizer(folder)` gives this tokenizer again."""
        ...


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that is faster on many texts at once."""

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """Return the ids of each text, as `encode` without added tokens gives them."""
        ...


@runtime_checkable
class ChatTokenizer(Protocol):
    """A tokenizer that knows how its family writes a conversation down."""

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, exactly as the family's own code builds them.

        When the last message is the user's, the ids end with what asks for the answer. A format that is built message
        by message (`zoo_core.tokenizers.chat`) has the prefix property: `chat(messages[:i])` is a prefix of
        `chat(messages)` whenever `messages[:i]` ends with a user's message, so the answer's ids are what follows the
        prefix. A template of the model's files is free to break it (Qwen3's drops the reasoning of earlier answers),
        so who relies on the property with a template compares first.

        Raises:
            TokenizerError: the family has no chat format, or it does not know such a conversation.
        """
        ...


@runtime_checkable
class PromptTokenizer(Protocol):
    """A tokenizer whose family writes a text to be continued otherwise than a text.

    `answer_end_id` is the token that ends what follows a prompt, where that is not eos.
    """

    answer_end_id: int | None

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt, behind which the model writes its answer."""
        ...


def decode_runs(ids: Iterable[int], is_known: Callable[[int], bool], decode: Callable[[list[int]], str]) -> str:
    """Decode the known stretches of `ids`; each unknown id (a model's padded vocabulary has such) becomes U+FFFD."""
    text = []
    for known, run in groupby((int(token) for token in ids), is_known):
        stretch = list(run)
        text.append(decode(stretch) if known else REPLACEMENT * len(stretch))
    return "".join(text)


def sound_text(text: str) -> str:
    """Return `text` with U+FFFD for each half of a surrogate pair, which the libraries refuse in ways of their own."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
