"""How the demo prints: a line for each request, with its outcome and the times of its steps."""

from __future__ import annotations

import shutil
import sys
import textwrap

import click

from enqueue.results import Done, Failed, Pong, Result

SLOW_STEP_MS = 1.0


def say(text: str) -> None:
    """Prints a text, its lines broken between words; colours and an indent on a terminal alone."""
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    for line in (text if on_terminal else click.unstyle(text)).splitlines():
        indent = "    " if on_terminal else ""
        click.echo(
            textwrap.fill(
                line, width, subsequent_indent=indent,
                break_long_words=False, break_on_hyphens=False,
            )
        )  # fmt: skip


def say_result(what: str, result: Result) -> None:
    """Prints what came of a request."""
    say(f"{what}: {outcome(result)}  {click.style(steps(result), dim=True)}")


def say_note(text: str) -> None:
    """Prints what happened between requests."""
    say(click.style(f"-- {text}", fg="yellow"))


def outcome(result: Result) -> str:
    """A request's outcome in a few words, coloured."""
    match result:
        case Done():
            word = result.state if result.changed else f"{result.state}, unchanged"
            again = f", attempt {result.attempts}" if result.attempts > 1 else ""
            return click.style(f"{word} in {result.took_ms:.0f} ms{again}", fg="green")
        case Pong():
            version = result.firecracker_version
            return click.style(f"pong from {result.host}, Firecracker {version}", fg="green")
        case Failed():
            return click.style(str(result), fg="red")


def steps(result: Result) -> str:
    """The steps that changed something and took noticeable time, in milliseconds."""
    if isinstance(result, Pong):
        return ""
    applied = [step for step in result.steps if step.applied]
    slow = [f"{step.name} {step.ms:.0f}" for step in applied if step.ms >= SLOW_STEP_MS]
    quick = len(applied) - len(slow)
    return ", ".join(slow) + (f" + {quick} under 1 ms" if quick else "")
