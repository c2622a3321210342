"""Arguments of the command line that argparse cannot convert by itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def readable(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as an argument's type: argparse prints the message of its `ValueError`."""

    def converted(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted
