"""`iii-state config`: whether a configuration can be used, and what it comes to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import yaml

from iii_state import config as configuration
from iii_state.adapters.bridge.remote.remote import address_of
from iii_state.adapters.redis.connection.address import Address
from iii_state.cli.command_group import CommandGroup
from iii_state.cli.run.guard import token_of_environment
from iii_state.client.address import shown
from iii_state.config import BridgeSettings, KvSettings, RedisSettings, Settings
from iii_state.errors import ConfigError
from iii_state.guard import Guard

_SECRET = re.compile(r"(^|[._])(token|password|secret)$")


@click.group(cls=CommandGroup)
def config() -> None:
    """Check a configuration, or show what it comes to."""


@config.command(short_help="Check FILE, and the files that it names.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Check FILE, an iii config.yaml, and the tokens, certificates, keys and URLs that it names. Nothing is started."""
    settings = _read(file)
    try:
        Guard(settings.server, token_of_environment()).check_addresses([settings.server.host])
        _check_place(settings.adapter)
    except ConfigError as error:
        raise click.ClickException(f"{file}: {error}") from None
    click.echo(f"{file} can be used")


@config.command(short_help="Show every setting of FILE, with its default.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show every setting of FILE, with the defaults of those that it does not name. Secrets are shown as stars."""
    settings = {name: _starred(name, value) for name, value in configuration.named(_read(file)).items() if value is not None}
    if as_json:
        click.echo(json.dumps(_nested(settings.items())))
    else:
        click.echo(yaml.safe_dump(_nested(settings.items()), sort_keys=False, allow_unicode=True), nl=False)


def _check_place(adapter: KvSettings | RedisSettings | BridgeSettings) -> None:
    """Read the URL of the store, and the files that are needed to get in there. Raises `ConfigError`."""
    if isinstance(adapter, RedisSettings):
        Address.parse(adapter.redis_url, adapter.tls)
    elif isinstance(adapter, BridgeSettings):
        address = address_of(adapter)
        address.headers()
        address.tls()


def _read(file: Path) -> Settings:
    try:
        given = configuration.load(file)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    try:
        return configuration.parse(given)
    except ConfigError as error:
        raise click.ClickException(f"{file}: {error}") from None


def _starred(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return "***"
    if isinstance(value, tuple | list):
        return [_starred(name, item) for item in value]
    return shown(value) if isinstance(value, str) and "://" in value else value


def _nested(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in settings:
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree
