"""Llama's tokenizer: sentencepiece for Llama 1 and 2, tiktoken for 3, or a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import TokenizerError

if TYPE_CHECKING:
    from zoo_core.tokenizers import AnyTokenizer, Message, PaddingSide, Tokenizer

__all__ = ["load"]

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_RANKS = 128_000
_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)
"""The 256 tokens after the ranks, as Llama 3.1 names them; the rank file does not hold them."""

_LLAMA2_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
_PADDING: PaddingSide = "left"


def load(path: Path | None) -> AnyTokenizer:
    """Load the tokenizer of a folder (or of one file in it).

    `tokenizer.json` comes first, then `tokenizer.model`, which is a sentencepiece model in Llama 1 and 2 and a tiktoken
    rank file in Llama 3.

    Conversations are written by the files' chat template, else as Meta's own code writes those of Llama 2 and 3.
    Weights of others that are tuned on Llama (FlagAlpha's, Ziya, Linly) have formats of their own, which nothing in
    their tokenizer tells: put a `chat_template.jinja` beside it.

    Raises:
        TokenizerError: nothing there is one of these, or it is corrupt; names the file and the folder.
    """
    # Here, because listing models imports this file and never needs the libraries behind tokenizers.
    from zoo_core.tokenizers import TiktokenTokenizer, load_tokenizer
    from zoo_core.tokenizers.load import is_tiktoken

    if path is None:
        raise TokenizerError(
            "no tokenizer for Llama",
            "it is a file of the published model, and no folder was given",
            "give the folder of tokenizer.model or tokenizer.json with --tokenizer_name_or_path",
        )
    path = Path(path)
    ranks = path / "tokenizer.model" if path.is_dir() else path
    has_other = path.is_dir() and any((path / name).is_file() for name in ("tokenizer.json", "tiktoken_config.json"))
    if has_other or ranks.suffix != ".model" or not ranks.is_file() or not is_tiktoken(ranks):
        return load_tokenizer(path, _PADDING, _chat)
    return TiktokenTokenizer(
        ranks,
        _LLAMA3_PATTERN,
        {text: _LLAMA3_RANKS + i for i, text in enumerate(_LLAMA3_SPECIAL)},
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|finetune_right_pad_id|>",
        add_bos=True,
        padding_side=_PADDING,
        chat_format=_chat,
    )


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    is_llama3 = tokenizer.token_id("<|start_header_id|>") is not None
    return _llama3_chat(tokenizer, messages) if is_llama3 else _llama2_chat(tokenizer, messages)


def _llama3_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    from zoo_core.tokenizers import ChatFormat

    roles = ("system", "user", "assistant")
    return ChatFormat(
        start=("<|begin_of_text|>",),
        before={role: ("<|start_header_id|>", role, "<|end_header_id|>", "\n\n") for role in roles},
        after={role: ("<|eot_id|>",) for role in roles},
        special=frozenset(_LLAMA3_SPECIAL),
        strip=True,
    )(tokenizer, messages)


def _llama2_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Each round is a text between bos and eos, the system's message is a part of the first question.

    Its marks are plain text, so a message that spells one is refused, as Meta's code does.
    """
    from zoo_core.tokenizers import required_id, rounds

    system, turns = rounds(messages)
    for message in messages:
        found = [tag for tag in _LLAMA2_TAGS if tag in message["content"]]
        if found:
            raise TokenizerError(
                f"a message of {message['role']} has {found[0]!r}",
                "Llama 2 could not tell it from the end of the message",
                "take it out",
            )
    bos, eos = required_id(tokenizer, "<s>"), required_id(tokenizer, "</s>")
    ids: list[int] = []
    for number, (question, answer) in enumerate(turns):
        if number == 0 and system is not None:
            question = f"<<SYS>>\n{system}\n<</SYS>>\n\n{question}"
        text = f"[INST] {question.strip()} [/INST]"
        if answer is not None:
            text += f" {answer.strip()} "
        ids += [bos, *tokenizer.encode(text, parse_special=False), *([] if answer is None else [eos])]
    return ids
