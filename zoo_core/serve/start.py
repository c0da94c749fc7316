"""From what a user asks for to a server that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from starlette.types import ASGIApp

from zoo_core._counting import many
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.generate.model import TextModel, load_model
from zoo_core.serve.app import make_app
from zoo_core.serve.metrics import Metrics
from zoo_core.serve.running import Door, address, bound, curl, is_local, run_servers
from zoo_core.serve.scheduler import Scheduler
from zoo_core.serve.site import Limits, Site
from zoo_core.serve.worker import ModelWorker

__all__ = ["DEFAULT_LENGTH", "Model", "Places", "serve"]

DEFAULT_LENGTH = 2048
"""Tokens of a text where nobody says and the context is longer: the cache of every row is there from the start."""


@dataclass(frozen=True)
class Model:
    """What is served.

    Args:
        path: as `load_model` takes it.
        name: what clients call it; by default the last part of `path`.
        adapters: folders of adapters by the names that clients call them.
        lora_path: folder of an adapter that answers under the model's own name.
        prefix_path: folder of a prefix.
        tokenizer: its file or folder.
        device: "cpu", "gpu" or "xpu".
        dtype: of the weights.
        chunk: about as many tokens of prompts are read between two passes.
    """

    path: str
    name: str = ""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    lora_path: Path | None = None
    prefix_path: Path | None = None
    tokenizer: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    chunk: int = 512


@dataclass(frozen=True)
class Places:
    """Where the server is.

    Args:
        host: address to listen at.
        port: of the API.
        web_port: of the page; `None` for no page.
        key: that clients have to show.
        drain_timeout: seconds that answers have to end after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8010
    web_port: int | None = None
    key: str = ""
    drain_timeout: float = 30.0


def serve(model: Model, places: Places, limits: Limits) -> int:
    """Serve a model until SIGTERM or SIGINT; return the exit status.

    Args:
        limits: of requests; its `max_length` 0 is the model's context, at most 2048.

    Raises:
        MachineError: a port is taken, or the page's packages are missing.
        ConfigError: names or limits do not fit the model.
        CheckpointError: as `load_model`.
    """
    name = model.name or (Path(model.path).resolve().name if Path(model.path).is_dir() else model.path)
    if name in model.adapters:
        raise ConfigError(
            f"an adapter and the model are both called {name}", "", "--model_name, or --adapter OTHER=PATH"
        )
    doors = [(places.port, "--port")] + ([(places.web_port, "--web_port")] if places.web_port is not None else [])
    sockets = [bound(places.host, port, flag) for port, flag in doors]
    metrics, made = Metrics(), list[tuple[TextModel, Limits]]()

    def make() -> ModelWorker:
        found = _loaded(model, name)
        made.append((found, replace(limits, max_length=_length(found, limits.max_length))))
        return ModelWorker(found, limits.max_batch, made[0][1].max_length, model.chunk)

    print(f"loading {model.path}", file=sys.stderr, flush=True)
    scheduler = Scheduler(make, limits.max_batch, limits.max_queue, metrics)
    scheduler.start()
    text_model, limits = made[0]
    site = Site(text_model, text_model.config.vocab_size, _names(model, name, text_model), scheduler, limits)
    metrics.attach(lambda: scheduler.waiting, lambda: scheduler.running, {v: k for k, v in site.names.items()})
    url = f"http://{address(places.host, sockets[0].getsockname()[1])}"
    apps: list[ASGIApp] = [make_app(site, metrics, places.key)]
    if places.web_port is not None:
        # Not at the top: what the page needs is an extra of its own.
        from zoo_core.serve.page import make_page

        apps.append(make_page(url, places.key, list(site.names), _talks(text_model), limits.max_length))

    def ready() -> None:
        most = f"{many(limits.max_batch, 'answer')} at a time, {many(limits.max_length, 'token')} each"
        print(f"serving {name} at {url}/v1: {most}", flush=True)
        print(f"  {curl(url, name, bool(places.key))}", flush=True)
        if places.web_port is not None:
            print(f"  chat at http://{address(places.host, sockets[1].getsockname()[1])}", flush=True)
        if not (places.key or is_local(places.host)):
            print(f"  anyone who reaches {places.host} can use it: --api_key KEY keeps others out", flush=True)

    doors_open = [Door(own, app) for own, app in zip(sockets, apps, strict=True)]
    status = run_servers(doors_open, site, places.drain_timeout, ready)
    sys.stdout.flush()
    if scheduler.alive:
        os._exit(status)  # a pass that does not end: the interpreter's own end would wait for it, or crash
    return status


def _loaded(model: Model, name: str) -> TextModel:
    adapters: dict[str, str | Path] = {name: model.lora_path} if model.lora_path is not None else {}
    adapters |= model.adapters
    return load_model(model.path, model.tokenizer, model.device, model.dtype, adapters or None, model.prefix_path)


def _names(model: Model, name: str, loaded: TextModel) -> dict[str, str]:
    """The names that clients use, and their adapters. The folder of an adapter is itself a model with it."""
    if not model.adapters and model.lora_path is None:
        return {name: next(iter(loaded.adapters.names), "")}
    own = {name: name if model.lora_path is not None else ""}
    return own | {adapter: adapter for adapter in model.adapters}


def _length(model: TextModel, wanted: int) -> int:
    """Tokens of the longest text.

    Raises:
        ConfigError: the model's context is shorter than what is wanted.
    """
    if wanted > model.context:
        raise ConfigError(f"--max_length {wanted}", f"the model's context is {model.context}", "give at most that")
    return wanted or min(model.context, DEFAULT_LENGTH)


def _talks(model: TextModel) -> bool:
    """Whether the model's family writes conversations down; the page of another continues texts."""
    try:
        return bool(model.chat_ids([{"role": "user", "content": "a"}]))
    except TokenizerError:
        return False
