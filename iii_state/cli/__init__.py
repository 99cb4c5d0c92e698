"""The command line: `iii-state serve`, and reading and changing state of a running engine."""

from __future__ import annotations

import logging
import sys

import click

from iii_state.cli.lua_load import lua_load
from iii_state.cli.operate import dead, triggers
from iii_state.cli.serve import serve
from iii_state.cli.state import delete, entries, get, groups, keys, list_values, set_value, update, watch


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="iii-state", prog_name="iii-state")
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
def main(verbose: int) -> None:
    """State for iii engines: JSON values at a scope and a key, and functions that run when they change."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")


for command in (serve, get, set_value, update, delete, list_values, keys, entries, groups, watch, triggers, dead, lua_load):
    main.add_command(command)
