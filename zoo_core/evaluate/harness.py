"""A model for lm-evaluation-harness (Gao et al., "The language model evaluation harness"): `--model zoo`.

    lm_eval --model zoo --model_args pretrained=./qwen-7b --tasks my_task --include_path ./tasks
    zoo eval harness ./qwen-7b --tasks my_task --include_path ./tasks

Releases of lm-eval after 0.4.13 find this class by the entry point `lm_eval.models`; `startup.py` makes 0.4.13 know it.

A context and its continuation become ids as lm-eval's own models have it, see `pair_ids`. A text that nothing precedes
follows what the family begins a text with, or bos, or eos, which itself is not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows
from tqdm import tqdm

from zoo_core.errors import ConfigError, nearest
from zoo_core.evaluate.encoding import context_ids, opening, pair_ids
from zoo_core.evaluate.loading import load

__all__ = ["ZooLM"]

_BLOCK = 16
"""Passes whose rows are put in order of length together."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@register_model("zoo")
class ZooLM(LM):  # type: ignore[misc]
    """A zoo model; what `--model_args` takes.

    Args:
        pretrained: a zoo checkpoint, the output folder of a run, a Hugging Face folder, or a model's name.
        tokenizer: its file or folder; by default the one beside the weights.
        lora_path: folder of an adapter of the model; `peft` is the same.
        prefix_path: folder of a prefix of the model.
        device: "auto", "cpu", "gpu" or "xpu"; "cuda:0", which lm-eval says where nobody did, is "auto".
        dtype: of the weights; on CPU "float32".
        batch_size: rows of a pass; "auto" is 8.
        max_batch_size: most rows where `batch_size` is "auto".
        max_length: most tokens that a pass sees; by default the model's context.
        max_gen_toks: most new tokens of a task that does not say; by default 256, at most half of `max_length`.
        seed: of the draws, where a task samples.

    Raises:
        ConfigError: an argument has a wrong value.
        ZooError: see `zoo_core.generate.load_model`.
    """

    def __init__(
        self,
        pretrained: str,
        tokenizer: str | None = None,
        lora_path: str | None = None,
        peft: str | None = None,
        prefix_path: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        adapter = lora_path or peft
        kind = (device or "auto").partition(":")[0]
        kind = "auto" if kind == "cuda" else kind  # what lm-eval says of itself, on machines without one, too
        self.model = load(pretrained, _path(tokenizer), _path(adapter), _path(prefix_path), kind, dtype)
        self.batch_size = _rows(batch_size, max_batch_size)
        self.max_length = int(max_length or self.model.context)
        if not 2 <= self.max_length <= self.model.context:
            raise ConfigError(
                f"max_length is {self.max_length}", f"the model's context is {self.model.context}",
                "give a length from 2 to the context",
            )  # fmt: skip
        self.max_gen_toks, self.seed = int(max_gen_toks or min(256, self.max_length // 2)), int(seed)
        self._name = str(adapter or prefix_path or tokenizer or pretrained)
        self._chats: dict[str, list[int]] = {}

    @property
    def tokenizer_name(self) -> str:
        """Stands for the tokenizer in the names of lm-eval's caches."""
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The family's own form; it is code, so there is no template to show."""
        return f"the form of {type(self.model.tokenizer).__name__}" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as text; its ids are kept, for not every tokenizer finds them in the text again.

        Args:
            add_generation_prompt: without it, the last message is the beginning of an answer.
        """
        if add_generation_prompt:
            ids = self.model.chat_ids(chat_history)
        else:
            begun = self.model.tokenizer.encode(chat_history[-1]["content"], parse_special=False)
            ids = [*self.model.chat_ids(chat_history[:-1]), *begun]
        text = self.model.tokenizer.decode(ids)
        self._chats[text] = ids
        return text

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context in self._chats:
            return self._chats[context], self.model.tokenizer.encode(continuation)
        before, after = pair_ids(self.model.tokenizer, context, continuation)
        if not context and after[: len(before)] == before:
            after = after[len(before) :]  # the text spells its beginning out
        return before, after

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and whether greedy decoding would give it.

        A context that is too long loses its beginning.

        Raises:
            ConfigError: a continuation is empty, or longer than `max_length`.
        """
        pairs = [self._pair(*request.args) for request in requests]
        found = self._score(pairs, disable_tqdm)
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, by windows that do not overlap, but for the last, which is full."""
        start = opening(self.model.tokenizer)
        if not start:
            raise ConfigError(
                "a text has nothing before it", "this tokenizer has no bos and no eos", "use another task"
            )
        pairs, counts = [], []
        for request in requests:
            (text,) = request.args
            ids = self.model.tokenizer.encode(text)
            windows = list(get_rolling_token_windows(ids, start[-1], self.max_length - len(start) + 1, 1))
            for number, (seen, wanted) in enumerate(windows):
                whole = [*(start[:-1] if not number else ()), *seen, wanted[-1]]
                pairs.append((whole[: -len(wanted)], wanted))
            counts.append(len(windows))
        scores = iter(self._score(pairs, disable_tqdm))
        found = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]], quiet: bool) -> list[tuple[float, bool]]:
        """Score continuations. Those of one token after the same context share a row."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for at, (before, after) in enumerate(pairs):
            if not after:
                raise ConfigError("a continuation has no tokens", "nothing of it would be scored", "correct the task")
            if len(after) > self.max_length:
                raise ConfigError(
                    f"a continuation has {len(after)} tokens", f"a pass sees at most {self.max_length}",
                    "use a model with a longer context",
                )  # fmt: skip
            shared = tuple(before) if len(after) == 1 else (*before, -1, *after)
            groups.setdefault(shared, []).append(at)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        ordered = sorted(groups.values(), key=lambda group: -sum(map(len, pairs[group[0]])))
        size = _BLOCK * self.batch_size
        with tqdm(total=len(pairs), desc="Running loglikelihood requests", disable=quiet) as bar:
            for start in range(0, len(ordered), size):
                block = ordered[start : start + size]
                self._score_block(pairs, block, found)
                bar.update(sum(map(len, block)))
        return found

    def _score_block(
        self,
        pairs: Sequence[tuple[list[int], list[int]]],
        block: Sequence[Sequence[int]],
        found: list[tuple[float, bool]],
    ) -> None:
        from zoo_core.generate.scoring import score_rows

        rows, firsts = [], []
        for group in block:
            before, after = pairs[group[0]]
            rows.append([*before, *after][-(self.max_length + 1) :])
            firsts.append(len(rows[-1]) - len(after))
        singles = {pairs[at][1][0] for group in block if len(group) > 1 for at in group}
        among = sorted(singles)
        scores = score_rows(
            self.model.engine, rows, firsts=firsts, top=1 if among else 0, among=among, window=self.max_length,
            batch_size=self.batch_size,
        )  # fmt: skip
        for group, own, first in zip(block, scores, firsts, strict=True):
            if own.tokens != len(own.logprobs) - first:
                raise ConfigError("the model's logits are not numbers", "its weights hold NaN", "use another one")
            if len(group) == 1:
                found[group[0]] = own.total, bool(own.greedy[first:].all())
                continue
            for at in group:
                (token,) = pairs[at][1]
                found[at] = float(own.among[-1, among.index(token)]), int(own.top_ids[-1, 0]) == token

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to a stop string, the end of the text, or the most new tokens.

        Raises:
            ConfigError: a task asks for something that is not known here, or leaves no room for its context.
        """
        from zoo_core.generate.rules import Row
        from zoo_core.generate.texts import AnswerText

        waiting = [self._prompt(request, number) for number, request in enumerate(requests)]
        found = [""] * len(requests)
        if not waiting:
            return found
        room = max(len(ids) + most for ids, most, *_ in waiting)
        pool = self.model.pool(min(self.batch_size, len(waiting)), room)
        # the longest first, as they set how long it takes
        order = sorted(range(len(waiting)), key=lambda at: len(waiting[at][0]))
        running: dict[int, tuple[int, AnswerText]] = {}
        with tqdm(total=len(requests), desc="Running generate_until requests", disable=disable_tqdm) as bar:
            while order or running:
                while order and pool.free:
                    at = order.pop()
                    ids, most, rules, stop = waiting[at]
                    ticket = pool.add(Row(ids, most, (self.seed, at)), rules)
                    running[ticket] = at, AnswerText(self.model.tokenizer, ids, stop)
                for ticket, step in pool.step().items():
                    at, text = running[ticket]
                    if step.finish == "error":
                        raise ConfigError(
                            "the model's logits are not numbers", "its weights hold NaN", "use another one"
                        )
                    if step.token is not None:
                        found[at] += text.add(step.token)
                    if not step.finish and not text.stopped:
                        continue
                    if not step.finish:
                        pool.drop(ticket)
                    found[at] += text.end()
                    del running[ticket]
                    bar.update()
                    self.cache_hook.add_partial("generate_until", requests[at].args, found[at])
        return found

    def _prompt(self, request: Any, number: int) -> tuple[list[int], int, Any, list[str]]:
        """The ids of a request, its most new tokens, rules and stop strings."""
        from zoo_core.generate.choice import Sampling

        context, given = request.args
        asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), self.max_gen_toks))
        stop, most = asked.pop("until"), int(asked.pop("max_gen_toks"))
        samples = asked.pop("do_sample")
        unknown = next((name for name in asked if name not in _SAMPLING), None)
        if unknown is not None:
            near = nearest(unknown, _SAMPLING)
            raise ConfigError(
                f"a task asks for {unknown}={asked[unknown]!r}", "it is not known here",
                f"did you mean {near}?" if near else f"known are {', '.join(_SAMPLING)}, until and max_gen_toks",
            )  # fmt: skip
        if not 1 <= most < self.max_length:
            raise ConfigError(
                f"a task asks for {most} new tokens", f"the model has room for {self.max_length}, the context included",
                "set max_gen_toks with --gen_kwargs",
            )  # fmt: skip
        if not samples:
            asked["temperature"] = 0.0
        sampling = Sampling(**{name: value for name, value in asked.items() if value is not None})
        chat = context in self._chats
        ids = self._chats[context] if chat else context_ids(self.model.tokenizer, context)
        ids = ids[-(self.max_length - most) :]
        return ids, most, self.model.rules(sampling, chat=chat), [text for text in stop if text]


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _rows(batch_size: int | str, most: int | None) -> int:
    """Rows of a pass; lm-eval also says "auto" and "auto:4"."""
    if str(batch_size).startswith("auto"):
        return min(8, most or 8)
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise ConfigError(f"batch_size is {batch_size}", "it has to be 1 or above, or auto", "correct it")
    return int(batch_size)
