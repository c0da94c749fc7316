"""The click side of the command line: commands loaded on demand."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from importlib import metadata

import click
from click.shell_completion import CompletionItem

from zoo_core.cli._commands import COMMANDS, Entry, overview
from zoo_core.cli._failures import UsageFailure
from zoo_core.errors import nearest

__all__ = ["app", "run"]


class DirectCommand(click.Command):
    """A command that parses its own words, as click's completion sees it."""

    def __init__(self, name: str, entry: Entry) -> None:
        words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, shell_complete=self._words)
        super().__init__(name, params=[words], short_help=entry.summary, add_help_option=False)
        self.context_settings = {"ignore_unknown_options": True}
        self._module = entry.module

    def _words(self, ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete what the command itself knows; any other word may be a file."""
        typed = tuple(ctx.params.get("words") or ())
        found = importlib.import_module(self._module).complete(typed, incomplete)
        items = [CompletionItem(word, help=text) for word, text in found.items() if word.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="file")]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete flags, which click asks the command for rather than its argument."""
        return self._words(ctx, self.params[0], incomplete)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if entry.direct:
            return DirectCommand(cmd_name, entry)
        found = importlib.import_module(entry.module).command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first word, or suggest the nearest."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = nearest(name, COMMANDS)
            raise click.UsageError(f"there is no command {name!r}" + (f"; did you mean {near!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The same overview as without click."""
        return overview()

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing them."""
        found = [CompletionItem(n, help=e.summary) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"zoo {metadata.version('zoo-core')}")
        ctx.exit()


@click.group(cls=LazyGroup, name="zoo", context_settings=_SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def app() -> None:
    """Hold the commands together."""


def run(words: Sequence[str]) -> int:
    """Run one command line; return its exit status.

    Raises:
        UsageFailure: the words do not make sense to click.
    """
    try:
        if "_ZOO_COMPLETE" in os.environ:
            app.main(args=list(words), prog_name="zoo")
        # Not `app.main`, which swallows a broken pipe and exits by itself.
        with app.make_context("zoo", list(words)) as context:
            status = app.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        # A group without its subcommand; click 8.1, which zoo allows, has no such class to name.
        if type(error).__name__ == "NoArgsIsHelpError":
            click.echo(error.format_message(), err=True)
            return 2
        path = error.ctx.command_path if error.ctx else "zoo"
        raise UsageFailure(error.format_message(), "", f"{path} --help says what there is") from error
    except click.ClickException as error:
        raise UsageFailure(error.format_message()) from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status if isinstance(status, int) else 0
