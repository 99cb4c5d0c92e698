"""`iii-state systemd`: the unit of an engine, or of an attached worker, for systemd."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files
from pathlib import Path

import click

_CONFIG = "/etc/iii-state/config.yaml"
_COMMAND = f"/opt/iii-state/bin/iii-state serve --config {_CONFIG}"
_DESCRIPTION = "iii-state, an iii engine with state"


def _one_line(_: click.Context, option: click.Parameter, given: str | None) -> str | None:
    if given is not None and not given.isprintable():
        raise click.BadParameter("it has to be one line of printable characters", param=option)
    return given


@click.command(short_help="A unit for systemd.")
@click.option("--attach", "engine", metavar="URL", callback=_one_line, help="That of a worker which is attached to this engine.")
@click.option("--config", "config_path", default=_CONFIG, show_default=True, callback=_one_line, help="What it is started with.")
@click.option("--executable", callback=_one_line, help="The path of iii-state; that of this program unless told.")
def systemd(engine: str | None, config_path: str, executable: str | None) -> None:
    """Print a unit for systemd: hardened, with a directory of its own, started again whenever it ends.

    \b
      iii-state systemd > /etc/systemd/system/iii-state.service
      systemctl daemon-reload && systemctl enable --now iii-state
    """
    program = executable or str(Path(sys.executable).with_name("iii-state"))
    words = [program, "serve" if engine is None else "attach", *(() if engine is None else ("--engine", engine))]
    text = (files("iii_state") / "cli" / "run" / "iii-state.service").read_text(encoding="utf-8")
    text = text.replace(_COMMAND, shlex.join([*words, "--config", config_path]).replace("%", "%%").replace("$", "$$"))
    if engine is not None:
        text = text.replace(_DESCRIPTION, f"iii-state, the state worker of {engine.rpartition('@')[2]}".replace("%", "%%"))
    click.echo(text, nl=False)
