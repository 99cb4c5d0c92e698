"""Moving data: `iii-state export`, `import` and `backup`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from iii_state import config as configuration
from iii_state import values
from iii_state.cli.calls import engine_at, engine_options, request, run, url_option
from iii_state.cli.progress import progress_bar
from iii_state.cli.queues import QueuesJob, queues_option, refuse_parts, told_of_exported, told_of_ignored, told_of_imported
from iii_state.cli.terminal import printable, show
from iii_state.client.client import Client
from iii_state.config import BridgeSettings, KvSettings, RedisSettings
from iii_state.errors import ConfigError
from iii_state.transfer import stores
from iii_state.transfer.exporting import Export, Exported
from iii_state.transfer.files import STANDARD, compression_of
from iii_state.transfer.iii_files import IiiFiles
from iii_state.transfer.importing import ExportFile, Import, Imported, check
from iii_state.transfer.lines import Selection
from iii_state.transfer.queue_stores import sources
from iii_state.transfer.rows import OnConflict, RowOutcome
from iii_state.transfer.stores import StorePlace

C = TypeVar("C", bound=Callable[..., Any])


def place_options(command: C) -> C:
    """Which store: `--url`, `--redis-url`, `--file-path` or `--config`."""
    for option in reversed(
        (
            url_option(),
            click.option("--redis-url", help="A Redis instead, with no engine in between."),
            click.option("--redis-prefix", default=RedisSettings().prefix, show_default=True, help="Of our keys in that Redis."),
            click.option(
                "--file-path", type=click.Path(path_type=Path), help="The directory of a kv store that no engine has open."
            ),
            click.option(
                "--config",
                "config_path",
                type=click.Path(dir_okay=False, path_type=Path),
                help="An iii config.yaml: the store that it names.",
            ),
        )
    ):
        command = option(command)
    return command


def selection_options(command: C) -> C:
    """`--scope` and `--prefix`."""
    scope = click.option("--scope", "scopes", multiple=True, help="Only this scope; may be given several times.")
    prefix = click.option("--prefix", "prefixes", multiple=True, help="Only scopes that begin so; may be given several times.")
    return scope(prefix(command))


_as_json = click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")


@click.command(short_help="Write the values of a store to FILE.")
@click.argument("file")
@place_options
@selection_options
@queues_option
@click.option("--dry-run", is_flag=True, help="Write nothing; count what there is.")
@_as_json
def export(
    file: str, scopes: tuple[str, ...], prefixes: tuple[str, ...], queues: bool, dry_run: bool, as_json: bool, **where: Any
) -> None:
    """Write the values of a store to FILE (- for standard output), one a line, with a checksum: .gz and .zst compress it.

    While it is not whole, the file is called FILE.part; an export that was cut off goes on when it is run again.

    \b
    iii-state export state.jsonl.gz --redis-url redis://localhost:6379
    """
    refuse_parts(queues, scopes, prefixes)
    place = _place(where)
    begun = time.monotonic()

    async def action() -> None:
        with progress_bar("exporting") as bar:
            async with sources(place, with_queues=queues) as (source, queue_source):
                export = Export(source, file, Selection(scopes, prefixes), bar.exported, queue_source)
                done = await (export.dry_run() if dry_run else export.run())
        more = told_of_exported(done, queue_source)
        _tell_exported(done, more, file, time.monotonic() - begun, dry_run=dry_run, as_json=as_json)

    _run(action)


@click.command("import", short_help="Put the values of FILE into a store.")
@click.argument("file", required=False)
@click.option(
    "--from-iii",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The file store of a stock iii engine (<scope>.bin) in place of FILE.",
)
@place_options
@selection_options
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="Where another value is there already. The very value is no conflict.",
)
@queues_option
@click.option("--events", is_flag=True, help="Fire the events of these changes; without it there are none.")
@click.option("--dry-run", is_flag=True, help="Change nothing; check the file, and count what would become of its values.")
@_as_json
def import_(
    file: str | None,
    from_iii: Path | None,
    scopes: tuple[str, ...],
    prefixes: tuple[str, ...],
    on_conflict: OnConflict,
    queues: bool,
    events: bool,
    dry_run: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Put the values of FILE, an export (- for standard input), into a store.

    A file is checked to its end before anything is changed. An import that was cut off goes on when it is run again:
    FILE.import says how far it is.

    \b
    iii-state import state.jsonl.gz --file-path ./data
    """
    if (file is None) == (from_iii is None):
        raise click.UsageError("give FILE, or --from-iii DIR: one of them.")
    refuse_parts(queues, scopes, prefixes)
    if queues and from_iii is not None:
        raise click.UsageError("--queues is for FILE: the files of a stock engine hold no queues.")
    if queues and events:
        raise click.UsageError("--queues brings the events that waited, and --events makes others: give one of them.")
    place = _place(where)
    begun = time.monotonic()
    source: IiiFiles | ExportFile = IiiFiles(from_iii) if from_iii is not None else ExportFile(file or "")
    if queues and not source.can_be_read_again:
        raise click.UsageError("--queues reads the export several times: save it to a file, and give its name.")
    note = Path(f"{file}.import") if from_iii is None and source.can_be_read_again else None

    async def action() -> None:
        with progress_bar("checking") as bar:
            all_values = check(source, bar.imported)
        job = QueuesJob(source, place, on_conflict) if queues and isinstance(source, ExportFile) else None
        if job is not None:
            await job.look(is_dry=dry_run)
        done = Imported()
        if job is None or job.plan.resumed is None:  # else the values are there, and no engine can start, nor an import be one
            with progress_bar("importing") as bar:
                async with stores.target(place, on_conflict, events=events, is_dry=dry_run) as target:
                    kept = note if target.store is not None else None
                    selection = Selection(scopes, prefixes)
                    done = await Import(source, target, on_conflict, selection, kept, all_values, bar.imported).run(is_dry=dry_run)
        more: Told = {}, []
        if job is not None:
            more = told_of_imported(job.would_put() if dry_run else await job.put())
        elif isinstance(source, ExportFile) and (ignored := told_of_ignored(source)) is not None:
            more = {}, [ignored]
        _tell_imported(done, more, time.monotonic() - begun, on_conflict, dry_run=dry_run, as_json=as_json)

    _run(action)


@click.command(short_help="Have an engine copy the file of its kv store.")
@click.argument("name", required=False)
@engine_options
def backup(name: str | None, url: str, as_json: bool) -> None:
    """Have an engine copy the file of its kv store while it runs, into the directory `backups` beside that, as NAME.

    The copy is of one moment, and whole when it is there. Without NAME it is called after the time.
    """

    async def action() -> None:
        async with Client(engine_at(url), call_seconds=BACKUP_SECONDS) as client:
            answer = await client.call("iii-state::backup", request(name=name))
        if as_json:
            show(answer, as_json)
            return
        made = values.decode(answer or b"{}")
        click.echo(f"{printable(made['path'])}: {_bytes(made['bytes'])}, on the machine of the engine")

    run(action)


BACKUP_SECONDS = 3600.0


def _place(where: dict[str, Any]) -> StorePlace:
    """The store that is meant. Options that would be passed over are wrong usage."""
    redis_url, prefix, directory, config_path = (where[name] for name in ("redis_url", "redis_prefix", "file_path", "config_path"))
    given = {"--redis-url": redis_url, "--file-path": directory, "--config": config_path, "--url": _typed("url")}
    named = [option for option, value in given.items() if value]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} were given, and name a store each; give one of them.")
    if redis_url is None and _typed("redis_prefix"):
        raise click.UsageError("--redis-prefix is of the keys in a Redis: give --redis-url with it.")
    if redis_url is not None:
        return StorePlace(redis=RedisSettings(redis_url=redis_url, prefix=prefix))
    if directory is not None:
        return StorePlace(directory=directory)
    if config_path is None:
        return StorePlace(engine=engine_at(where["url"]))
    try:
        adapter = configuration.parse(configuration.load(config_path)).adapter
    except ConfigError as error:
        raise click.ClickException(printable(str(error))) from None
    match adapter:
        case RedisSettings():
            return StorePlace(redis=adapter)
        case KvSettings(directory=Path() as kept):
            return StorePlace(directory=kept)
        case BridgeSettings():
            return StorePlace(engine=engine_at(adapter.bridge_url))
    raise click.UsageError(f"the store of {config_path} lives in the memory of its engine: give --url to go through that.")


def _typed(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


def _run(action: Callable[[], Any]) -> None:
    try:
        run(action)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; the same command goes on from there") from None


# --- what is told


Told = tuple[dict[str, Any], list[str]]
"""Of queues: for programs, and in words."""


def _tell_exported(done: Exported, more: Told, file: str, seconds: float, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        told: dict[str, Any] = {"scopes": done.all_scopes, "values": done.all_values}
        count = "" if done.all_values is None else f"{_many(done.all_values, 'value')} of "
        words = f"{count}{_many(done.all_scopes, 'scope')} would be exported"
        more = {}, []
    else:
        told = {"scopes": done.scopes, "values": done.values, "resumed": done.resumed, "bytes": done.bytes, "seconds": seconds}
        before = f", {done.resumed:,} of them before it was cut off" if done.resumed else ""
        moved = f"{_many(done.values, 'value')} of {_many(done.scopes, 'scope')}{before}"
        packed = " before compression" if compression_of(file) else ""
        moved = ", ".join((moved, *more[1]))
        words = f"exported {moved}: {_bytes(done.bytes)}{packed} in {seconds:.1f} s"
    _tell({**told, **more[0]}, words, as_json=as_json, to_stderr=file == STANDARD)


def _tell_imported(done: Imported, more: Told, seconds: float, on_conflict: str, *, dry_run: bool, as_json: bool) -> None:
    counts = {outcome.value: done.outcomes[outcome] for outcome in RowOutcome}
    told = {**counts, "resumed": done.resumed, "left_out": done.left_out, "seconds": seconds, **more[0]}
    taken = "have another value there" if dry_run else "left alone, since another value is there"
    if dry_run and on_conflict == "overwrite":
        taken = "would be overwritten"
    words = [f"{_many(counts['stored'], 'value')} {'would be ' if dry_run else ''}imported"]
    words += [
        f"{count:,} {what}"
        for count, what in (
            (counts["same"], "there already"),
            (counts["taken"], taken),
            (counts["expired"], "past their deadline"),
            (done.resumed, "put before it was cut off"),
            (done.left_out, "of other scopes"),
        )
        if count
    ]
    words += more[1]
    _tell(told, f"{', '.join(words)}: {seconds:.1f} s", as_json=as_json)


def _tell(told: dict[str, Any], words: str, *, as_json: bool, to_stderr: bool = False) -> None:
    click.echo(json.dumps(told) if as_json else words, err=to_stderr)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
