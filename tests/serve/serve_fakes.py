"""A model without weights: a token is a character, and an answer counts on from its prompt through the alphabet."""

from __future__ import annotations

import threading

from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.rules import Row, Rules, Step
from zoo_core.generate.texts import AnswerText
from zoo_core.serve.jobs import Job, Score


def expected(prompt, count, shift=0):
    """The answer: it depends on the prompt and the adapter alone."""
    begin = sum(map(ord, prompt)) + shift
    return "".join(chr(97 + (begin + at) % 26) for at in range(count))


class Tokens:
    vocab_size, bos_id, eos_id, pad_id, padding_side, files = 0x3000, None, 0, None, "right", ()

    def encode(self, text, add_special_tokens=False, *, parse_special=True):
        return [min(ord(letter), self.vocab_size - 1) for letter in text]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(token) for token in ids if token or not skip_special_tokens)

    def pieces(self, ids):
        return [chr(token) for token in ids]


class Pool:
    def __init__(self, owner, slots):
        self.owner, self.slots, self.rows, self.count = owner, slots, {}, 0

    def add(self, row, rules):
        if len(self.rows) >= self.slots:
            raise ValueError("full")
        self.count += 1
        self.rows[self.count] = [row, rules, 0]
        return self.count

    def drop(self, ticket):
        self.rows.pop(ticket, None)

    def step(self):
        self.owner.steps.append((self.owner.adapter, len(self.rows)))
        self.owner.before_step()
        found = {}
        for ticket, one in list(self.rows.items()):
            row, rules, made = one
            token = 97 + (sum(row.ids) + self.owner.shifts[self.owner.adapter] + made) % 26
            one[2] += 1
            finish = "stop" if token in rules.ends else "length" if one[2] >= row.max_new_tokens else ""
            top = tuple((token + at, -0.5 - at) for at in range(rules.logprobs or 0))
            found[ticket] = Step(
                None if token in rules.ends else token, finish, None if rules.logprobs is None else -0.5, top
            )
            if finish:
                del self.rows[ticket]
        return found


class Worker:
    """Adapters shift the answers."""

    def __init__(self, slots=4, shifts=None):
        self.slots, self.adapter, self.steps, self.pools = slots, "", [], 0
        self.shifts = {"": 0, **(shifts or {})}
        self.error, self.good, self.pause = None, 0, False
        self.going = threading.Event()
        self.going.set()

    def before_step(self):
        if self.pause and self.good:
            self.good -= 1
        elif self.pause:
            self.going.clear()
            self.pause = False
        self.going.wait(60)
        if self.error is not None and self.good:
            self.good -= 1
        elif self.error is not None:
            error, self.error = self.error, None
            raise error

    def use(self, adapter):
        self.adapter = adapter

    def pool(self):
        self.pools += 1
        return Pool(self, self.slots)

    def scores(self, prompts, top):
        def one(token):
            return Score(-float(token % 7), tuple((token + at, -float(token % 7) - at) for at in range(top)))

        return [[Score(None), *(one(token) for token in ids[1:])] for ids in prompts]


class Model:
    def __init__(self, context=64, chat=True):
        self.tokenizer, self.context, self.chat = Tokens(), context, chat

    def encode(self, prompt):
        if not prompt:
            return [1]
        if len(prompt) >= self.context:
            raise ConfigError(f"the prompt has {len(prompt)} tokens", f"the model's context is {self.context}")
        return self.tokenizer.encode(prompt)

    def chat_ids(self, messages):
        if not self.chat:
            raise TokenizerError("no conversations")
        return self.tokenizer.encode("".join(f"[{m['role']}]{m['content']}" for m in messages) + ">")

    def rules(self, sampling, *, chat=False, **more):
        return Rules(sampling, **{"ends": (0,), "vocab_size": 0x3000, **more})


class Heard(Job):
    """A job that keeps what it hears."""

    def __init__(self, prompt, new=4, stop=(), rules=None, **more):
        from zoo_core.generate.choice import Sampling

        ids = [ord(letter) for letter in prompt]
        text = AnswerText(Tokens(), ids, stop)
        self.events = []
        super().__init__(Row(ids, new), rules or Rules(Sampling(0.0)), text, self.events.append, **more)

    @property
    def said(self):
        return "".join(event.text for event in self.events)

    @property
    def end(self):
        last = self.events[-1] if self.events else None
        return last and (last.finish or last.failure.kind)


class Live:
    """A real server, on a thread of its own, over the fake model."""

    def __init__(self, worker, model, names=None, key="", **limits):
        import uvicorn

        from zoo_core.serve.app import make_app
        from zoo_core.serve.metrics import Metrics
        from zoo_core.serve.running import bound
        from zoo_core.serve.scheduler import Scheduler
        from zoo_core.serve.site import Limits, Site

        self.worker = worker
        wanted = Limits(**{"max_batch": 4, "max_queue": 8, "max_length": 64, "max_body": 100_000, **limits})
        metrics = Metrics()
        self.scheduler = Scheduler(lambda: worker, wanted.max_batch, wanted.max_queue, metrics)
        self.scheduler.start()
        names = names or {"base": "", "poems": "a"}
        self.site = Site(model, 0x3000, names, self.scheduler, wanted)
        metrics.attach(lambda: self.scheduler.waiting, lambda: self.scheduler.running, {v: k for k, v in names.items()})
        self.socket = bound("127.0.0.1", 0, "--port")
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(make_app(self.site, metrics, key), log_level="error", lifespan="off", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    def close(self):
        self.worker.going.set()
        self.server.should_exit = True
        self.thread.join(20)
        self.scheduler.stop()
