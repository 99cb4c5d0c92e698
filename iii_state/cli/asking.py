"""What commands that change or read values can ask for beyond the plain: conditions, meta, a part of a scope."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import click
import msgspec

from iii_state import values
from iii_state.cli.calls import json_text
from iii_state.client.address import shown
from iii_state.client.client import Client
from iii_state.errors import Code, FunctionError, unsupported
from iii_state.state.features import announced

C = TypeVar("C", bound=Callable[..., Any])


def condition_options(command: C) -> C:
    """`--if-absent`, `--if-etag`, `--if-equals` and `--if`, which a command gets as `only_if`: the JSON of all, or None."""

    @wraps(command)
    def with_conditions(
        *arguments: Any, if_absent: bool, if_etag: str | None, if_equals: str | None, if_all: str | None, **named: Any
    ) -> Any:
        only_if = _conditions(if_absent, if_etag, if_equals, if_all)
        return command(*arguments, only_if=only_if, **named)

    options = (
        click.option("--if-absent", is_flag=True, help="Only where nothing is stored."),
        click.option("--if-etag", metavar="ETAG", help="Only where what is stored has this etag, as --meta shows it."),
        click.option("--if-equals", metavar="JSON", help="Only where what is stored is equal."),
        click.option("--if", "if_all", metavar="JSON", help='Only where all of these hold: [{"path": "stock", "gte": 1}].'),
    )
    wrapped: Any = with_conditions
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _conditions(if_absent: bool, if_etag: str | None, if_equals: str | None, if_all: str | None) -> bytes | None:
    if if_absent and (if_etag is not None or if_equals is not None):
        raise click.UsageError("--if-absent never holds together with --if-etag or --if-equals: give one.")
    found: list[bytes] = []
    if if_absent:
        found.append(b'{"absent":true}')
    if if_etag is not None:
        found.append(b'{"etag":%b}' % values.encode_string(if_etag))
    if if_equals is not None:
        found.append(b'{"equals":%b}' % json_text("--if-equals", if_equals))
    if if_all is not None:
        found += _list_of("--if", if_all)
    return b"[%b]" % b",".join(found) if found or if_all is not None else None


def _list_of(name: str, text: str) -> list[bytes]:
    """The conditions of `--if`; one alone may stand without a list around it."""
    given = json_text(name, text)
    if given.lstrip()[:1] == b"{":
        return [given]
    try:
        return [bytes(each) for each in msgspec.json.decode(given, type=list[msgspec.Raw])]
    except msgspec.ValidationError:
        raise click.BadParameter('it has to be a list of conditions, like [{"path": "stock", "gte": 1}]', param_hint=name) from None


def meta_option(command: C) -> C:
    """`--meta`."""
    return click.option("--meta", is_flag=True, help="Also the etag, the revision, and what is left of a deadline.")(command)


def part_options(*names: str) -> Callable[[C], C]:
    """Those of `--prefix`, `--limit` and `--order` that are named here."""
    described = {
        "prefix": click.option("--prefix", help="Only of keys that begin so."),
        "limit": click.option("--limit", type=click.IntRange(1, 100_000), help="So many at most."),
        "order": click.option("--order", type=click.Choice(["asc", "desc"]), help="By the bytes of the keys."),
    }

    def add(command: C) -> C:
        for name in reversed(names):
            command = described[name](command)
        return command

    return add


async def check_features(client: Client, needed: Iterable[tuple[str, bool]]) -> None:
    """Look whether the engine has what is needed. An older one would carry out a command without it.

    Raises `FunctionError`: `UNSUPPORTED`.
    """
    features = [feature for feature, is_needed in needed if is_needed]
    if not features:
        return
    try:
        about = await client.call("engine::functions::info", b'{"function_id":"state::set"}')
    except FunctionError as error:
        if error.code not in (Code.FUNCTION_NOT_FOUND, Code.NOT_FOUND):
            raise
        raise FunctionError(Code.FUNCTION_NOT_FOUND, f"the engine at {shown(client.url)} has no state (state::set)") from None
    known = announced(values.decode(about or b"null"))
    for feature in features:
        if feature not in known:
            raise unsupported(f"the engine at {shown(client.url)}", feature)
