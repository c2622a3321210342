"""The operations on a command line: built from the request structs, for `hostctl` and `hostd plan`.

A string that is required is an argument, any other field an option; the description of a field is
its help.  A field `..._id` or `..._secs` loses this ending on the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Any

import click
import msgspec
from msgspec import inspect

from enqueue.conversation.validation import explain
from enqueue.errors import BadRequest
from enqueue.requests import Request, TenantNet


def command_of(kind: type[Request], run: Callable[..., Any]) -> click.Command:
    """The operation's command: calls `run` with its arguments and options, by fields' names."""
    summary = f"{kind.summary[0].upper()}{kind.summary[1:]}."
    text = f"{summary}\n\nWhen it is done: {cleandoc(kind.__doc__ or '')}"
    return click.command(kind.command, help=text, short_help=kind.summary, params=parameters(kind))(
        run
    )


def parameters(kind: type[Request]) -> list[click.Parameter]:
    """The operation's arguments and options, in the order of the struct's fields."""
    return [parameter for field in _fields(kind) for parameter in _parameters_of(field)]


def request_of(kind: type[Request], values: Mapping[str, Any]) -> Request:
    """The request that the arguments and options name.

    Raises:
        BadRequest: they break the protocol.
    """
    try:
        fields = {field.name: _value(field, values) for field in _fields(kind)}
        request = kind(**fields)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    try:
        return msgspec.json.decode(msgspec.json.encode(request), type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(explain(error, request)) from None


def _fields(kind: type[Request]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    return info.fields if isinstance(info, inspect.StructType) else ()


def _parameters_of(field: inspect.Field) -> list[click.Parameter]:
    kind, text = _bare(field.type)
    name = field.name.removesuffix("_id").removesuffix("_secs")
    flag = f"--{name.replace('_', '-')}"

    def option(metavar: str, type_: Callable[[str], Any]) -> list[click.Parameter]:
        return [
            click.Option(
                [flag, field.name], metavar=metavar, type=type_, required=field.required, help=text
            )
        ]

    match kind:
        case inspect.StructType(cls=cls) if cls is TenantNet:
            subnet = "a private /24; its first address is the gateway"
            return [
                click.Option(["--net-id"], metavar="N", type=int, required=True),
                click.Option(["--subnet"], metavar="10.240.N.0/24", required=True, help=subnet),
            ]
        case inspect.StrType() if field.required:
            return [click.Argument([field.name], metavar=name.upper())]
        case inspect.BoolType():
            return [click.Option([flag, field.name], is_flag=True, help=text)]
        case inspect.IntType():
            return option("S" if field.name.endswith("_secs") else "N", int)
        case inspect.StrType():
            return option("TEXT", str)
        case _:
            return option("JSON", json.loads)


def _bare(kind: inspect.Type) -> tuple[inspect.Type, str]:
    """A field's type without `| None` and without its description, and this description."""
    text = ""
    if isinstance(kind, inspect.Metadata):
        text = str((kind.extra_json_schema or {}).get("description", ""))
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        some = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        kind = some[0] if len(some) == 1 else kind
    return kind, text


def _value(field: inspect.Field, values: Mapping[str, Any]) -> Any:
    kind, _ = _bare(field.type)
    if isinstance(kind, inspect.StructType) and kind.cls is TenantNet:
        return TenantNet.of(values["net_id"], values["subnet"])
    return values[field.name]
