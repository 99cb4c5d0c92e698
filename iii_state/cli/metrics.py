"""`iii-state metrics`: what the package brings for Prometheus and Grafana."""

from __future__ import annotations

from importlib.resources import files

import click

from iii_state.cli.command_group import CommandGroup


@click.group(cls=CommandGroup, short_help="Alert rules for Prometheus, a dashboard for Grafana.")
def metrics() -> None:
    """What goes with the metrics of engines (`iii-state docs metrics`): alert rules for Prometheus, a dashboard for Grafana."""


@metrics.command()
def alerts() -> None:
    """Print alert rules, a file for `rule_files` of Prometheus."""
    click.echo(brought("alerts.yml"), nl=False)


@metrics.command()
def dashboard() -> None:
    """Print a dashboard, a file that Grafana imports."""
    click.echo(brought("dashboard.json"), nl=False)


def brought(name: str) -> bytes:
    """A file of the package."""
    return (files("iii_state") / "observe" / "prometheus" / name).read_bytes()
