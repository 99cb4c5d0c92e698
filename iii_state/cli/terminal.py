"""What is printed: exact text in a pipe; on a terminal nothing that moves its cursor, sets its title or turns its text around."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec

from iii_state.values import Json

MAX_COLOURED_BYTES = 50_000
"""Larger values are indented and not coloured, which takes 20 µs a byte."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
_NO_LINE = re.compile('^$|^"|[\t\r\n]')


def is_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout is not None and sys.stdout.isatty()


def check_output() -> None:
    """Raise `click.ClickException` where there is nothing to print to."""
    if sys.stdout is None:
        raise click.ClickException("standard output is closed")


def discard_output() -> None:
    """Nothing can be printed any more: what has not been written is dropped, and not tried again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def printable(text: str, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    r"""A text for people, in one line: control and bidi characters, and what the output's encoding lacks, as `\u001b` and so on."""
    text = unsafe.sub(lambda match: _escape(match.group()), text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(letter if _fits(letter, encoding) else _escape(letter) for letter in text)
    return text


@contextmanager
def printable_errors() -> Iterator[None]:
    """Every error that click prints passes here: what a name or a path in it holds does nothing to a terminal."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message, _UNSAFE_IN_LINES)  # type: ignore[misc]
        raise


def _escape(letter: str) -> str:
    return json.dumps(letter)[1:-1]


def _fits(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def name(text: str) -> str:
    """A scope or a key on a terminal: itself, or a JSON string, which alone begins with a quotation mark."""
    return text if text.isprintable() and _NO_LINE.search(text) is None and printable(text) == text else json.dumps(text)


def exact_name(text: str) -> str:
    """The same in a pipe: a JSON string only where it would be no line, or no column, of its own."""
    return text if _NO_LINE.search(text) is None else msgspec.json.encode(text).decode()


def print_line(text: str) -> None:
    """Print a line of names: UTF-8 in a pipe, whatever the locale."""
    click.echo(text if is_terminal() else text.encode())


def show(text: Json | None, as_json: bool) -> None:
    """Print a value: a line of compact JSON in a pipe, indented and coloured on a terminal."""
    text = b"null" if text is None else bytes(text)
    if not is_terminal():
        click.echo(msgspec.json.format(text, indent=-1))
        return
    shown = printable(msgspec.json.format(text, indent=-1 if as_json else 2).decode(), _UNSAFE_IN_LINES)
    if as_json or len(text) > MAX_COLOURED_BYTES:
        click.echo(shown)
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console().print(Syntax(shown, "json", background_color="default", word_wrap=True))


class OneLine(logging.Formatter):
    """Log lines: a message is one line, whatever a name or an error in it holds; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return printable(super().formatException(ei), _UNSAFE_IN_LINES)  # type: ignore[arg-type]
