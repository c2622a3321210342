"""What both command lines, `hostctl` and `hostd`, are made of: exit codes, errors, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import get_completion_class

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


class CommandLine(click.Group):
    """A program: calling it runs one command and returns the exit code.

    `report` prints an error of one of the classes `errors` and returns the exit code.
    """

    def __init__(
        self,
        *args: Any,
        errors: tuple[type[Exception], ...],
        report: Callable[[Exception, click.Context], int],
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.no_args_is_help = False  # a missing command is wrong usage, as any other
        self._errors, self._report = errors, report
        self.add_command(_completion)

    def __call__(self, *args: Any, **more: Any) -> int:
        """As `main`."""
        return int(self.main(*args, **more))

    def main(self, args: Any = None, *rest: Any, **more: Any) -> Any:
        """The exit code; what is wrong before any command is known is reported here."""
        if os.environ.get("NO_COLOR"):  # https://no-color.org
            more |= {"color": False}
        more |= {"prog_name": self.name, "standalone_mode": False}
        try:
            return super().main(args, *rest, **more) or DONE
        except click.UsageError as error:
            print(usage(error), file=sys.stderr)
            return USAGE
        except click.Abort:
            return INTERRUPTED

    def invoke(self, ctx: click.Context) -> Any:
        """The exit code of the command."""
        try:
            return super().invoke(ctx)
        except self._errors as error:
            return self._report(error, ctx)


def usage(error: click.UsageError) -> str:
    """One line: which command is used wrongly, what is wrong, and where its use is described."""
    message = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx else ""
    return f"{path}: {message}; see `{path} --help`"


@click.command("completion", short_help="print the completion script of a shell")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def _completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes this program's command lines in a shell.

    Write it to where the shell looks for such scripts, or evaluate it in the shell's start file.
    """
    program = ctx.find_root()
    name = str(program.info_name)
    complete = get_completion_class(shell)
    if complete is not None:  # always: each of the choices is a shell of click's
        click.echo(complete(program.command, {}, name, f"_{name.upper()}_COMPLETE").source())
