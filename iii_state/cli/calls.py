"""What commands that call a running engine share: its address, arguments that are JSON, errors in one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from iii_state import values
from iii_state.cli.terminal import check_output, printable
from iii_state.client.address import EngineAddress, shown
from iii_state.errors import ConfigError, ConnectionLost, FunctionError, InvalidValue, StoreError, TransferError, WorkerRejected

C = TypeVar("C", bound=Callable[..., Any])


DEFAULT_URL = "ws://127.0.0.1:49134"


def an_address(context: click.Context, option: click.Parameter, url: str) -> str:
    """An engine's address, refused as wrong usage where nothing can ever answer at it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "; a Redis is named with --redis-url, by commands that take one" if "redis" in url.partition("://")[0] else ""
        raise click.BadParameter(f"it has to be an address like {DEFAULT_URL}, not {shown(url)!r}{hint}")
    return url


def url_option(name: str = "--url", variable: str = "III_STATE_URL") -> Callable[[C], C]:
    """The address of an engine, and what it takes to get in, of every command that talks to one (`engine_at`)."""

    def add(command: C) -> C:
        for option in reversed((_url_option(name, variable), *_access_options())):
            command = option(command)
        return command

    return add


def engine_at(url: str) -> EngineAddress:
    """The engine of the command that runs, with what its options say of how to get in."""
    given: dict[str, Path] = click.get_current_context().meta.get(_ACCESS, {})
    return EngineAddress(url, None, *(given.get(name) for name in ("token_file", "ca_file", "cert_file", "key_file")))


_ACCESS = "iii_state.access"


def _keep(context: click.Context, option: click.Parameter, path: str | None) -> None:
    if path is not None:
        context.meta.setdefault(_ACCESS, {})[str(option.name)] = Path(path)


def _access_options() -> list[Callable[[C], C]]:
    described = {
        "--token-file": "A file with the token for the engine; otherwise III_TOKEN.",
        "--ca-file": "The authority of the engine's certificate (PEM), for wss://.",
        "--cert-file": "A certificate for an engine that wants one (PEM).",
        "--key-file": "The key of --cert-file (PEM).",
    }
    return [click.option(name, expose_value=False, callback=_keep, help=words) for name, words in described.items()]


def _url_option(name: str, variable: str) -> Callable[[C], C]:
    return click.option(
        name,
        "url",
        envvar=variable,
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        callback=an_address,
        help="The engine.",
    )


def engine_options(command: C) -> C:
    """`--url` and `--json`."""
    url = url_option()
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, as the engine gave it.")
    return url(as_json(command))


def ttl_option(command: C) -> C:
    """`--ttl-ms`, of every command that gives a value a deadline."""
    return click.option("--ttl-ms", type=click.IntRange(min=1), help="The value goes after so many milliseconds.")(command)


def json_text(name: str, text: str) -> bytes:
    """An argument that is JSON text, or `-` for standard input; checked here, so that a mistake in it gets a good message."""
    given = _standard_input(name) if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        given.decode("utf-8")
        msgspec.json.decode(given)
    except RecursionError:
        raise click.BadParameter(f"nests deeper than {values.MAX_DEPTH} levels", param_hint=name) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, UnicodeDecodeError) else values.fault(given, error)
        why = why.removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        shown = given if len(given) <= 60 else given[:57] + b"..."
        hint = f""" A string needs quotes of its own: '"{text}"'.""" if _is_word(name, text) else ""
        raise click.BadParameter(f"{shown.decode(errors='replace')!r} is no JSON: {why}.{hint}", param_hint=name) from None
    return given


def _is_word(name: str, text: str) -> bool:
    """Whether a value was meant as a string, most likely."""
    return name in ("VALUE", "--if-equals") and text.replace("_", "").replace("-", "").isalnum()


def _standard_input(name: str) -> bytes:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint=name)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise click.BadParameter(f"standard input cannot be read: {error.strerror}", param_hint=name) from None


def run(action: Callable[[], Awaitable[None]]) -> None:
    """Run a command; what goes wrong is one line on standard error, and exit code 1."""

    async def main() -> None:
        await action()

    check_output()
    try:
        asyncio.run(main())
    except FunctionError as error:
        raise click.ClickException(printable(f"{error.code}: {error.message}")) from None
    except (ConfigError, ConnectionLost, InvalidValue, WorkerRejected, StoreError, TransferError) as error:
        raise click.ClickException(printable(str(error))) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone; nothing is left to say


def request(**fields: Any) -> bytes:
    """The JSON text of a request; `bytes` fields are JSON text already, those that are None are left out."""
    given = {name: field for name, field in fields.items() if field is not None}
    return values.compact_members(
        {name: field if isinstance(field, bytes) else _encoded(name, field) for name, field in given.items()}
    )


def _encoded(name: str, field: Any) -> bytes:
    try:
        return values.encode(field)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name.upper()) from None
