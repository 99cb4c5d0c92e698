"""Whom an engine lets in, as options of `iii-state serve` and the configuration say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from iii_state import config as configuration
from iii_state.config import ServerSettings
from iii_state.errors import ConfigError

C = TypeVar("C", bound=Callable[..., Any])

TOKEN_VARIABLE = "III_STATE_TOKEN"


def guard_options(command: C) -> C:
    """What the block `server:` of the configuration holds, as options of the same names; they arrive as `given`."""
    for option in reversed(
        (
            click.option("--host", help="The address to listen on (127.0.0.1 unless told); 0.0.0.0 is every one."),
            click.option("--port", type=click.IntRange(0, 65535), help="49134 unless told; 0 takes a free one."),
            click.option(
                "--token-file", help=f"A file with the token that workers have to bring. {TOKEN_VARIABLE} holds one, too."
            ),
            click.option("--tokens-file", help="A file with several tokens, hashed, with names and rights (`iii-state token`)."),
            click.option("--allow-origins", multiple=True, metavar="ORIGIN", help="A web page that may connect; may be repeated."),
            click.option("--allow-hosts", multiple=True, metavar="NAME", help="A name this engine is reached by; may be repeated."),
            click.option("--tls-cert", help="A certificate (PEM): workers connect with wss://."),
            click.option("--tls-key", help="The key of --tls-cert (PEM)."),
            click.option("--tls-client-ca", help="Workers have to show a certificate of this authority (PEM)."),
            click.option("--limits", multiple=True, metavar="NAME=NUMBER", help="A limit, e.g. connections=100; may be repeated."),
            click.option("--insecure", is_flag=True, help="Listen without a token where others can reach it."),
            click.option("--no-metrics", is_flag=True, help="No /metrics on the port."),
            click.option("--no-ui", is_flag=True, help="No web page on the port."),
        )
    ):
        command = option(command)
    return command


def server_settings(config: Mapping[str, Any] | None, options: Mapping[str, Any]) -> ServerSettings:
    """The settings of the block `server:`, with what the options say in place of what the file says. Raises `ConfigError`."""
    block = (config or {}).get("server", {})
    if not isinstance(block, Mapping):
        return configuration.server("server", block)
    merged = dict(block)
    for name in ("host", "port", "token_file", "tokens_file"):
        if options[name] is not None:
            merged[name] = options[name]
    for name in ("allow_origins", "allow_hosts"):
        if options[name]:
            merged[name] = list(options[name])
    tls = {name: options[f"tls_{name}"] for name in ("cert", "key", "client_ca") if options[f"tls_{name}"] is not None}
    if tls:
        before = block.get("tls")
        merged["tls"] = {**before, **tls} if isinstance(before, Mapping) else tls
    if options["limits"]:
        before = block.get("limits")
        merged["limits"] = {**(before if isinstance(before, Mapping) else {}), **_limits(options["limits"])}
    if options["insecure"]:
        merged["insecure"] = True
    if options["no_metrics"]:
        merged["metrics"] = False
    if options["no_ui"]:
        merged["ui"] = False
    return configuration.server("server", merged)


def _limits(given: tuple[str, ...]) -> dict[str, int]:
    limits = {}
    for each in given:
        name, _, number = each.partition("=")
        if not number.isascii() or not number.isdigit():
            raise click.BadParameter(f"it has to be NAME=NUMBER, not {each!r}", param_hint="--limits")
        limits[name] = int(number)
    return limits


def token_of_environment() -> str | None:
    """The server's token in the environment. One that is set and empty is an error: nobody means to use none by it."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not token.strip():
        raise ConfigError(f"{TOKEN_VARIABLE} is set, and empty: unset it to use no token")
    return None if token is None else token.strip()
