"""Texts to ids as evaluation needs them: what stands before a text, and where a continuation begins. No paddle."""

from __future__ import annotations

from zoo_core.errors import ConfigError
from zoo_core.tokenizers import Tokenizer
from zoo_core.tokenizers.base import PromptTokenizer

__all__ = ["context_ids", "opening", "pair_ids"]


def opening(tokenizer: Tokenizer) -> list[int]:
    """Return what stands before a text that nothing precedes, so that its first token has a probability, too.

    That is what the family puts around an empty text; where it puts nothing, bos, or eos, which ends the document
    before. Empty for a tokenizer that has none of these.
    """
    if isinstance(tokenizer, PromptTokenizer):
        return tokenizer.prompt("")
    own = tokenizer.encode("", add_special_tokens=True)
    one = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    return own or ([] if one is None else [one])


def _ends_prompts(tokenizer: Tokenizer) -> bool:
    """Whether the family puts something between a prompt and its continuation."""
    if isinstance(tokenizer, PromptTokenizer):
        return True
    bare, whole = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=True)
    return whole[-len(bare) :] != bare


def context_ids(tokenizer: Tokenizer, context: str, parse_special: bool = True) -> list[int]:
    """Return the ids of a text to be continued, with what the family adds by itself; of an empty one, `opening`.

    Raises:
        ConfigError: it is empty, and the tokenizer has nothing to begin with.
    """
    if not context:
        ids = opening(tokenizer)
        if not ids:
            raise ConfigError("the context is empty", "this tokenizer has no token to begin with", "give a context")
        return ids
    if isinstance(tokenizer, PromptTokenizer):
        return tokenizer.prompt(context)
    return tokenizer.encode(context, add_special_tokens=True, parse_special=parse_special)


def pair_ids(
    tokenizer: Tokenizer, context: str, continuation: str, parse_special: bool = True
) -> tuple[list[int], list[int]]:
    """Return the ids of a context and those of its continuation.

    As lm-evaluation-harness has it: spaces at the end of the context belong to the continuation, both are encoded as
    one text, and the continuation is what is beyond the context's number of ids. A family that ends a prompt in a way
    of its own has the two encoded apart.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces and spaces < len(context):
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = context_ids(tokenizer, context, parse_special)
    if not context or _ends_prompts(tokenizer):
        return before, tokenizer.encode(continuation, parse_special=parse_special)
    whole = tokenizer.encode(context + continuation, add_special_tokens=True, parse_special=parse_special)
    return before, whole[len(before) :]
