"""The command line: `iii-state serve` and `attach`, and reading and changing state of a running engine."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from iii_state.cli.command_group import CommandGroup
from iii_state.cli.config import config
from iii_state.cli.data import delete, get, set_value, update
from iii_state.cli.docs import docs
from iii_state.cli.doctor import doctor
from iii_state.cli.history import history
from iii_state.cli.lists import entries, groups, keys, list_values
from iii_state.cli.lua_load import lua_load
from iii_state.cli.many import get_many, touch, transact
from iii_state.cli.metrics import metrics
from iii_state.cli.move import backup, export, import_
from iii_state.cli.moving import move
from iii_state.cli.operate import dead
from iii_state.cli.run.attach import attach
from iii_state.cli.run.serve import serve
from iii_state.cli.stats import stats, top
from iii_state.cli.systemd import systemd
from iii_state.cli.terminal import OneLine, discard_output, printable_errors
from iii_state.cli.token import token
from iii_state.cli.triggers import triggers
from iii_state.cli.watch import watch


class Commands(CommandGroup):
    """The commands. Output that cannot be written, to a full disk say, is one line on standard error, and exit code 1."""

    def main(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super().main(*arguments, **named)
        except OSError as error:
            discard_output()
            click.echo(f"Error: the output cannot be written: {error.strerror or error}", err=True)
            sys.exit(1)

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with printable_errors():
            return super().make_context(*arguments, **named)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Where an option of a command stands before it, the error says where it belongs."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(error.option_name in option.opts for command in self.commands.values() for option in command.params):
                raise click.UsageError(
                    f"{error.option_name} belongs behind the command: iii-state COMMAND {error.option_name}.", ctx
                ) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Where an option of all commands stands behind one, the error says where it belongs."""
        with printable_errors():
            try:
                return super().invoke(ctx)
            except click.NoSuchOption as error:
                if any(error.option_name in option.opts for option in self.params):
                    raise click.UsageError(
                        f"{error.option_name} belongs before the command: iii-state {error.option_name} {ctx.invoked_subcommand}.",
                        error.ctx,
                    ) from None
                raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="iii-state", prog_name="iii-state")
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
def main(verbose: int) -> None:
    """State for iii engines: JSON values at a scope and a key, and functions that run when they change."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler])


for command in (
    serve,
    attach,
    get,
    get_many,
    set_value,
    update,
    delete,
    touch,
    transact,
    list_values,
    keys,
    entries,
    groups,
    history,
    watch,
    top,
    stats,
    triggers,
    dead,
    doctor,
    export,
    import_,
    move,
    backup,
    lua_load,
    metrics,
    systemd,
    token,
    config,
    docs,
):
    main.add_command(command)
