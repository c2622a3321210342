"""`hostd` and `hostctl` as programs: operations from structs, completion, man pages, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import click
import msgspec
import pytest
from click_man.core import write_man_pages

from enqueue.command_line import USAGE, CommandLine
from enqueue.errors import BadRequest
from enqueue.hostctl.cli import main as hostctl
from enqueue.operations import command_of, request_of
from enqueue.requests import REQUEST_TYPES, Ping, Request, SleepInstance
from worker.cli import main as hostd

PROGRAMS = pytest.mark.parametrize("program", [hostctl, hostd], ids=["hostctl", "hostd"])


class PutThing(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=True):
    """The thing is on record."""

    command: ClassVar[str] = "put-thing"
    summary: ClassVar[str] = "declare a thing"

    tenant_id: str
    size_mib: int
    labels: dict[str, str] = {}
    note: Annotated[str | None, msgspec.Meta(description="Said of it.")] = None
    is_big: bool = False


def test_a_new_struct_is_a_command_without_more() -> None:
    kind = cast("type[Request]", PutThing)
    got: list[Any] = []
    command = command_of(kind, lambda **values: got.append(request_of(kind, values)))
    words = ["acme", "--size-mib", "7", "--labels", '{"a":"b"}', "--is-big"]
    command.main(words, standalone_mode=False)
    assert got == [PutThing(tenant_id="acme", size_mib=7, labels={"a": "b"}, is_big=True)]
    shown = command.get_help(click.Context(command, info_name="put-thing"))
    assert "Declare a thing." in shown
    assert "The thing is on record." in shown
    assert "Said of it." in shown
    with pytest.raises(click.MissingParameter, match="size_mib"):
        command.main(["acme"], standalone_mode=False)
    with pytest.raises(click.BadParameter):
        command.main(["acme", "--size-mib", "7", "--labels", "{"], standalone_mode=False)


def test_every_operation_is_a_command_of_both_programs() -> None:
    assert {kind.command for kind in REQUEST_TYPES.values()} <= hostctl.commands.keys()
    plan = hostd.commands["plan"]
    assert isinstance(plan, click.Group)
    assert plan.commands.keys() == {
        kind.command for kind in REQUEST_TYPES.values() if kind is not Ping
    }


def test_a_request_that_breaks_the_protocol_is_named_by_its_field() -> None:
    values = {"tenant_id": "acme", "pool_id": "p", "instance_id": "i-1a2b3c4d", "force": False}
    with pytest.raises(BadRequest, match="drain_timeout_secs: -1 is wrong"):
        request_of(SleepInstance, values | {"drain_timeout_secs": -1})


@PROGRAMS
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_completion_script(
    program: CommandLine, shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["completion", shell]) == 0
    assert f"_{str(program.name).upper()}_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hostctl sl", "plain,sleep\n"),
        ("hostctl retry --op Sl", "plain,SleepInstance\n"),
        ("hostd plan net-", "plain,net-up\nplain,net-down\n"),
        ("hostd sweep --dr", "plain,--dry-run\n"),
    ],
)
def test_words_are_completed(words: str, expected: str) -> None:
    program, *rest = words.split(" ")
    module = {"hostctl": "enqueue.hostctl.cli", "hostd": "worker.cli"}[program]
    environment = os.environ | {
        f"_{program.upper()}_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(rest)),
    }
    line = (sys.executable, "-m", module)
    shown = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert sorted(shown.stdout.splitlines()) == sorted(expected.splitlines())


def test_each_command_has_a_man_page_that_roff_can_read(tmp_path: Path) -> None:
    for program in (hostctl, hostd):
        write_man_pages(program.name, program, target_dir=str(tmp_path))
    pages = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {"hostctl.1", "hostctl-net-up.1", "hostd-plan-sleep.1", "hostd-why.1"} <= pages.keys()
    assert "Exit codes: 0 done, 1 failed, 2 wrong" in pages["hostctl.1"]
    for name, page in pages.items():
        assert "\\" not in page.replace("\\-", "").replace("\\f", ""), name
        lines = [line for line in page.splitlines() if line.startswith((".", "'"))]
        macros = {line.split(" ")[0] for line in lines}
        assert macros <= {".TH", ".SH", ".PP", ".TP", ".B"}, name


@PROGRAMS
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "{}: Missing command; see `{} --help`\n"),
        (["explode"], "{}: No such command 'explode'; see `{} --help`\n"),
        (["--explode"], "{}: No such option '--explode'; see `{} --help`\n"),
        (
            ["completion", "csh"],
            "{0} completion: Invalid value for '{{bash|zsh|fish}}': 'csh' is not one of 'bash', "
            "'zsh', 'fish'; see `{0} completion --help`\n",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    program: CommandLine, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(words) == USAGE
    out, err = capsys.readouterr()
    assert (out, err) == ("", message.format(program.name, program.name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "start", "acme", "p", "nope"], "instance_id: 'nope' is wrong; it must be 'i-'"),
        (["plan", "net-up", "a", "--net-id", "5", "--subnet", "8.8.8.0/24"], "a private /24"),
        (["sweep"], "give either --dry-run or --apply"),
        (["sweep", "--dry-run", "--apply"], "give either --dry-run or --apply"),
        (["drain"], "give either --deadline or --status"),
        (["drain", "--deadline", "soon"], "'soon' is not a valid duration (90s, 15m, 2h)"),
        (["recover"], "recover what? give --rebuild-ledger"),
    ],
)
def test_wrong_words_to_hostd_are_wrong_usage(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "hostd.toml"
    config.write_text(f'host = "host-a"\n[paths]\nledger = "{tmp_path}/ledger.db"\n')
    assert hostd(["--config", str(config), *words]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_commands_are_known_without_what_they_need() -> None:
    heavy = ("rich", "rq", "redis", "cryptography", "httpx", "pyroute2")
    for module in ("enqueue.hostctl.cli", "worker.cli"):
        code = f"import {module}, sys; sys.exit(', '.join({{*{heavy}}} & {{*sys.modules}}) or 0)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, b""), (module, ran.stderr)
