"""`zoo completion`: the script that makes a shell complete commands, flags and model names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(zoo completion bash)"               in ~/.bashrc
    zsh:   eval "$(zoo completion zsh)"                in ~/.zshrc
    fish:  zoo completion fish | source                in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "zoo", "_ZOO_COMPLETE").source())
