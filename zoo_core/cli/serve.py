"""`zoo serve`: a model behind OpenAI's HTTP API, with a page to chat on."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.cli._options import tokenizer_option, tuned_options, weights_options
from zoo_core.environment import ready_device
from zoo_core.errors import ConfigError
from zoo_core.serve.extras import PAGE_PACKAGES, SERVE_PACKAGES, require_packages

__all__ = ["command"]

_ONE = click.IntRange(1)
_PORT = click.IntRange(0, 65535)


@click.command(name="serve")
@click.argument("path")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen at; 0.0.0.0 is every one of this machine.")  # fmt: skip
@click.option("--port", type=_PORT, default=8010, show_default=True, help="Port of the API; 0 takes a free one.")
@click.option("--web/--no-web", default=False, help="Also serve a page to chat on.")
@click.option("--web_port", "--web-port", type=_PORT, default=8011, show_default=True, help="Port of the page.")
@click.option("--api_key", "--api-key", envvar="ZOO_API_KEY", default="",
              help="Key that clients have to show; other users of this machine do not see ZOO_API_KEY.")  # fmt: skip
@click.option("--model_name", "--model-name", default="", help="What clients call the model; else PATH's last part.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=PATH",
              help="An adapter that clients get by its name as the model; may be given more than once.")  # fmt: skip
@tuned_options(adapter="Adapter that answers under the model's own name.")
@tokenizer_option
@click.option("--max_batch", "--max-batch", type=_ONE, default=16, show_default=True,
              help="Answers that are written at a time, over all adapters.")  # fmt: skip
@click.option("--max_queue", "--max-queue", type=click.IntRange(0), default=128, show_default=True,
              help="Answers that may wait beside them; beyond, clients get 429.")  # fmt: skip
@click.option("--max_length", "--max-length", type=click.IntRange(2), default=None,
              help="Tokens of a prompt with its answer; else the model's context, at most 2048.")  # fmt: skip
@click.option("--max_body", "--max-body", type=_ONE, default=8 << 20, show_default=True,
              help="Bytes of the largest request.")  # fmt: skip
@click.option("--prefill_chunk", "--prefill-chunk", type=_ONE, default=512, show_default=True,
              help="About as many tokens of new prompts are read between two tokens of the answers.")  # fmt: skip
@click.option("--request_timeout", "--request-timeout", type=click.FloatRange(0, min_open=True), default=600.0,
              show_default=True, help="Seconds from a request to the end of its answer.")  # fmt: skip
@click.option("--drain_timeout", "--drain-timeout", type=click.FloatRange(0), default=30.0, show_default=True,
              help="Seconds that answers have to end after SIGTERM.")  # fmt: skip
@click.option("--tensor_parallel_degree", "--tp", type=int, default=1, hidden=True)
@click.option("--pipeline_parallel_degree", "--pp", type=int, default=1, hidden=True)
@click.option("--nproc", type=int, default=1, hidden=True)
@weights_options()
def command(
    path: str,
    host: str,
    port: int,
    web: bool,
    web_port: int,
    api_key: str,
    model_name: str,
    adapters: tuple[str, ...],
    lora_path: Path | None,
    prefix_path: Path | None,
    tokenizer: Path | None,
    max_batch: int,
    max_queue: int,
    max_length: int | None,
    max_body: int,
    prefill_chunk: int,
    request_timeout: float,
    drain_timeout: float,
    tensor_parallel_degree: int,
    pipeline_parallel_degree: int,
    nproc: int,
    device: str,
    dtype: str,
) -> int:
    """Serve the model in PATH over HTTP, as OpenAI's API has it.

    PATH is a zoo checkpoint, the output folder of a run, a Hugging Face folder, or a model's name. The
    checkpoint of a LoRA or prefix run knows its base model.

    \b
      zoo serve ./output
      zoo serve ./qwen-7b-chat --web --adapter poems=./output/poems
      ZOO_API_KEY=secret zoo serve ./output --host 0.0.0.0
    """
    if max(tensor_parallel_degree, pipeline_parallel_degree, nproc) > 1:
        raise ConfigError(
            "zoo serve runs on one process",
            "requests reach one rank, and the others would have to follow each of its passes",
            "leave out --tensor_parallel_degree, --pipeline_parallel_degree and --nproc; "
            "zoo run predict runs under them",
        )
    require_packages(SERVE_PACKAGES, "serve", "zoo serve")
    if web:
        require_packages(PAGE_PACKAGES, "webui", "the chat page")
    named = _named(adapters)
    device = ready_device(device, dtype)
    from zoo_core.engine.quiet import import_paddle

    import_paddle(device)
    from zoo_core.serve.site import Limits
    from zoo_core.serve.start import Model, Places, serve

    model = Model(path, model_name, named, lora_path, prefix_path, tokenizer, device, dtype, prefill_chunk)
    places = Places(host, port, web_port if web else None, api_key, drain_timeout)
    return serve(model, places, Limits(max_batch, max_queue, max_length or 0, max_body, request_timeout))


def _named(adapters: tuple[str, ...]) -> dict[str, Path]:
    """The folders of adapters by name.

    Raises:
        ConfigError: a word is not NAME=PATH, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for word in adapters:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--adapter {word}", "an adapter needs a name and a folder", "--adapter NAME=PATH")
        if name in found:
            raise ConfigError(f"two adapters are called {name}", "clients choose by name", "call one otherwise")
        found[name] = Path(path)
    return found
