"""`iii-state metrics`: what the package brings for Prometheus and Grafana."""

from __future__ import annotations

import re
from importlib.resources import files

import click

from iii_state.cli.command_group import CommandGroup

_URL = re.compile(r"https?://[\w.:\[\]/%~+-]+")


@click.group(cls=CommandGroup, short_help="Alert rules for Prometheus, a dashboard for Grafana.")
def metrics() -> None:
    """What goes with the metrics of engines (`iii-state docs metrics`): alert rules for Prometheus, a dashboard for Grafana."""


@metrics.command()
@click.option("--docs-url", metavar="URL", help="Where you keep these docs: each rule links to its section of the runbook there.")
def alerts(docs_url: str | None) -> None:
    """Print alert rules, a file for `rule_files` of Prometheus."""
    text = brought("alerts.yml")
    if docs_url is not None:
        if _URL.fullmatch(docs_url) is None:
            raise click.BadParameter("it has to be an address that begins with https:// or http://", param_hint="--docs-url")
        text = text.replace(b" runbook: ", f" runbook_url: {docs_url.rstrip('/')}/".encode())
    click.echo(text, nl=False)


@metrics.command()
def dashboard() -> None:
    """Print a dashboard, a file that Grafana imports."""
    click.echo(brought("dashboard.json"), nl=False)


def brought(name: str) -> bytes:
    """A file of the package."""
    return (files("iii_state") / "observe" / "prometheus" / name).read_bytes()
