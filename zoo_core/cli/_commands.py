"""The commands by name, each with its module and its line in `zoo --help`; plain data: help needs no imports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Entry", "overview"]


@dataclass(frozen=True)
class Entry:
    """A command.

    Args:
        module: where it is: a click command called `command`, or when `direct`, `main(words, with_traceback) -> int`.
        summary: what it does, in one line.
        direct: it takes its words apart itself, without click, because it must be quick or its words are arguments of
            a run, which the arguments room parses.
    """

    module: str
    summary: str
    direct: bool = False


COMMANDS: dict[str, Entry] = {
    "models": Entry("zoo_core.cli.models", "list the models of the installed plugins", direct=True),
    "plugins": Entry(
        "zoo_core.cli.plugins", "list the installed plugins, and what is wrong with broken ones", direct=True
    ),
    "matrix": Entry("zoo_core.cli.matrix", "show what every family can do, and how far that is proved", direct=True),
    "capabilities": Entry(
        "zoo_core.cli.capabilities", "show what one model can do, and which tests show it", direct=True
    ),
    "new-plugin": Entry("zoo_core.cli.new_plugin", "write a plugin package to make one's own architecture in"),
    "layout": Entry("zoo_core.cli.layout", "show every parameter of a model and how it splits"),
    "plan": Entry("zoo_core.cli.plan", "rank legal plans by predicted speed, or say what one would be", direct=True),
    "calibrate": Entry("zoo_core.cli.calibrate", "measure this machine's device, for zoo plan --hardware", direct=True),
    "run": Entry("zoo_core.cli.run", "run a task: zoo run pretrain --model qwen/qwen-7b", direct=True),
    "logits": Entry("zoo_core.cli.logits", "compute logits of given ids under any plan, to compare", direct=True),
    "export": Entry("zoo_core.cli.export", "write a model as static programs, equal to it"),
    "sample": Entry("zoo_core.cli.sample", "continue a text with a trained model"),
    "serve": Entry("zoo_core.cli.serve", "serve a model over HTTP as OpenAI's API has it, with a page to chat on"),
    "eval": Entry("zoo_core.cli.eval", "measure perplexity, multiple choice, or lm-evaluation-harness's tasks"),
    "compress": Entry("zoo_core.cli.compress", "quantise a model after training or as trained, with a report"),
    "chat": Entry("zoo_core.cli.chat", "talk with a trained model at the terminal"),
    "checkpoint": Entry("zoo_core.cli.checkpoint", "list, verify and show the checkpoints of runs"),
    "data": Entry("zoo_core.cli.data", "build, show and verify corpora"),
    "tokenizer": Entry("zoo_core.cli.tokenizer", "train and try tokenizers"),
    "convert": Entry("zoo_core.cli.convert", "convert weights: Hugging Face, PyTorch, Paddle, PaddleNLP, zoo"),
    "merge": Entry("zoo_core.cli.merge", "merge an adapter and its base, or shards of PaddleNLP or FleetX"),
    "doctor": Entry("zoo_core.cli.doctor", "say what this machine has and what is missing"),
    "completion": Entry("zoo_core.cli.completion", "print the completion script of a shell"),
}


def overview() -> str:
    """Return what `zoo --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        "Usage: zoo COMMAND [ARGUMENTS]",
        "",
        "A model zoo for large language models on PaddlePaddle.",
        "",
        "Commands:",
    ]
    lines += [f"  {name:<{width}}{entry.summary}" for name, entry in COMMANDS.items()]
    lines += [
        "",
        "zoo COMMAND --help says more. --version prints the version; --traceback shows where a failure arose.",
    ]
    return "\n".join(lines)
