"""`iii-state get-many`, `transact` and `touch`: many keys at once, and deadlines of values that are there."""

from __future__ import annotations

import click
import msgspec

from iii_state import values
from iii_state.cli.asking import check_features
from iii_state.cli.calls import engine_at, engine_options, json_text, request, run, ttl_option
from iii_state.cli.terminal import name, printable, show
from iii_state.client.client import Client


class _Found(msgspec.Struct):
    found: bool
    value: msgspec.Raw


class _Values(msgspec.Struct):
    values: list[_Found]


class _Results(msgspec.Struct):
    results: list[msgspec.Raw]


@click.command("get-many", short_help="Print the values at KEYS of SCOPE.")
@click.argument("scope")
@click.argument("keys", nargs=-1, required=True)
@engine_options
def get_many(scope: str, keys: tuple[str, ...], url: str, as_json: bool) -> None:
    """Print the values at up to 1,000 KEYS of SCOPE, of one moment: ["key", value], one a line, of those that are there.

    \b
    iii-state get-many users ada bob
    """

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("many", True)])
            answer = await client.call("state::get_many", request(scope=scope, keys=list(keys)))
        if as_json:
            show(answer, as_json)
            return
        found = msgspec.json.decode(answer or b"{}", type=_Values).values
        for key, value in zip(keys, found, strict=True):
            if value.found:
                show(b"[%b,%b]" % (values.encode_string(key), value.value), as_json)

    run(action)


@click.command(short_help="Make several changes of SCOPE, all or none.")
@click.argument("scope")
@click.argument("steps")
@engine_options
def transact(scope: str, steps: str, url: str, as_json: bool) -> None:
    """Make the changes of STEPS (a JSON list, or - for standard input) in SCOPE, all or none; print what each did, one a line.

    A step is {"type": "set", "key", "value"}, {"type": "update", "key", "ops"} or {"type": "delete", "key"}, each with "if" for
    conditions. Operations that are skipped are reported, and the exit code is 1; the others count.

    \b
    iii-state transact stock '[{"type": "delete", "key": "a", "if": [{"present": true}]}, {"type": "set", "key": "b", "value": 1}]'
    """
    text = json_text("STEPS", steps)

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("transact", True), ("if", b'"if"' in text), ("meta", b'"strict"' in text)])
            answer = await client.call("state::transact", request(scope=scope, steps=text))
        results = msgspec.json.decode(answer or b"{}", type=_Results).results
        if as_json:
            show(answer, as_json)
        else:
            for result in results:
                show(result, as_json)
        skipped = [(number, error) for number, each in enumerate(results) for error in values.decode(each).get("errors", ())]
        for number, error in skipped:
            words = f"step {number}, op {error['op_index']}: {error['code']}: {error['message']}"
            click.secho(printable(words), fg="red", err=True)
        if skipped:
            raise SystemExit(1)

    run(action)


@click.command(short_help="Give the value at SCOPE and KEY another deadline.")
@click.argument("scope")
@click.argument("key")
@ttl_option
@click.option("--forever", is_flag=True, help="The value stays: it has no deadline any more.")
@engine_options
def touch(scope: str, key: str, ttl_ms: int | None, forever: bool, url: str, as_json: bool) -> None:
    """Give the value at SCOPE and KEY another deadline, with --ttl-ms, or none, with --forever; it changes nothing else.

    Where nothing is stored, the exit code is 1.

    \b
    iii-state touch leases printer --ttl-ms 30000
    """
    if (ttl_ms is None) is not forever:
        raise click.UsageError("Give --ttl-ms or --forever, one of them.")

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("touch", True)])
            answer = await client.call("state::touch", request(scope=scope, key=key, ttl_ms=b"null" if ttl_ms is None else ttl_ms))
        show(answer, as_json)
        if not values.decode(answer or b"{}").get("found"):
            click.secho(f"nothing is stored at {name(scope)} {name(key)}", fg="red", err=True)
            raise SystemExit(1)

    run(action)
