"""How the conversations of a run are written down, by its arguments. No paddle."""

from __future__ import annotations

from pathlib import Path

from zoo_core.arguments import Arguments, sample_tokens
from zoo_core.data.preference import PairEncoder
from zoo_core.data.sft import Encoder, Limits
from zoo_core.errors import ConfigError
from zoo_core.tokenizers import Tokenizer

__all__ = ["encoder_of", "pair_encoder_of"]


def encoder_of(arguments: Arguments, tokenizer: Tokenizer, vocab_size: int | None = None) -> Encoder:
    """Return what writes the conversations of a run down.

    Raises:
        ConfigError: the chat template cannot be used.
        TokenizerError: the template has an error, or jinja2 is missing.
    """
    data, given = arguments.data, arguments.given
    total = min(data.max_length, sample_tokens(arguments)) if data.zero_padding else data.max_length
    limits = Limits(data.src_length, data.tgt_length if "tgt_length" in given else None, total)
    return Encoder(tokenizer, limits, _form(arguments, tokenizer), vocab_size)


def pair_encoder_of(arguments: Arguments, tokenizer: Tokenizer, vocab_size: int | None = None) -> PairEncoder:
    """Return what writes the pairs of a run down. Raises as `encoder_of`."""
    data = arguments.data
    form = _form(arguments, tokenizer)
    return PairEncoder(tokenizer, data.max_seq_len, data.max_prompt_len, form, vocab_size)


def _form(arguments: Arguments, tokenizer: Tokenizer) -> str | None:
    """The form that was asked for, its template in use; `None` leaves it to the family."""
    template = arguments.data.chat_template
    if not template:
        return None
    if template.lower() == "none":
        return "plain"
    _use_template(tokenizer, Path(template).expanduser())
    return "chat"


def _use_template(tokenizer: Tokenizer, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"no chat template at {path}", "no such file", "give a Jinja file, or `none` for no template")
    if path.suffix == ".json":
        why = "it seems to be one of PaddleNLP's, whose form is its own"
        raise ConfigError(f"{path} is no Jinja template", why, "give the model's chat_template.jinja")
    use = getattr(tokenizer, "use_template", None)
    if use is None:
        raise ConfigError(
            f"this tokenizer cannot follow {path}",
            f"{tokenizer.files[0].name} finds no special tokens in a text, which templates spell out",
            "give a tokenizer.json, or leave chat_template out for the family's own form",
        )
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", str(error), "give a Jinja file in UTF-8") from None
    use(source, path)
