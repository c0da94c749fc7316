"""A tokenizer whose ids are the letters' code points, with special tokens from 1000 on: expected ids can be read."""

from __future__ import annotations

from pathlib import Path

from zoo_core.tokenizers import rounds

BOS, EOS, MASK, START, USER, ASSISTANT, END = range(1000, 1007)
NAMES = {BOS: "<s>", EOS: "</s>", MASK: "[gMASK]", START: "<sop>", USER: "<u>", ASSISTANT: "<a>", END: "<end>"}


class Letters:
    """Plain: `before` and `behind` are what `add_special_tokens` adds."""

    vocab_size, bos_id, eos_id, pad_id, padding_side, files = 2000, BOS, EOS, None, "right", (Path("letters"),)

    def __init__(self, before=(), behind=()):
        self.before, self.behind = list(before), list(behind)

    def encode(self, text, add_special_tokens=False, *, parse_special=True):
        ids = [ord(letter) for letter in text]
        return [*self.before, *ids, *self.behind] if add_special_tokens else ids

    def decode(self, ids, skip_special_tokens=False):
        return "".join(("" if skip_special_tokens else NAMES[i]) if i in NAMES else chr(i) for i in ids)


class Chatty(Letters):
    """<s> then each turn behind its role's token; `end` ends an answer."""

    def __init__(self, end=(EOS,)):
        super().__init__()
        self.end = list(end)

    def chat(self, messages):
        ids = [BOS]
        for message in messages:
            role = {"user": [USER], "assistant": [ASSISTANT]}.get(message["role"], [])
            ids += role + self.encode(message["content"]) + (self.end if message["role"] == "assistant" else [])
        return [*ids, ASSISTANT] if messages[-1]["role"] == "user" else ids


class Numbered(Letters):
    """All before the last answer is one text whose form depends on the number of rounds, as in ChatGLM v1."""

    def chat(self, messages):
        _, (*history, (question, answer)) = rounds(messages)
        text = "".join(f"[{n}]{q}:{a}" for n, (q, a) in enumerate(history))
        text += f"[{len(history)}]{question}:" if history else question
        ids = [*self.encode(text), MASK, START]
        return ids if answer is None else [*ids, *self.encode(answer), EOS]


class Prompted(Letters):
    """Has a prompt form of its own, and another end, as GLM."""

    answer_end_id = END

    def prompt(self, text):
        return [BOS, *self.encode(text), MASK, EOS, START]
