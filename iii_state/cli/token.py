"""`iii-state token`: makes a token, and the entry that a tokens file keeps of it."""

from __future__ import annotations

import json
import os

import click

from iii_state.guard import tokens


@click.command(short_help="Make a token, and its entry of a tokens file.")
@click.argument("name")
@click.option("--out", help="Write the token to this file, readable by you alone, and print the entry only.")
def token(name: str, out: str | None) -> None:
    """Make a token called NAME: prints it, once, and the entry that a tokens file keeps of it.

    Nothing is stored but what --out names. Whoever has the token may do what the entry says; the entry holds only its hash.
    """
    if not name.strip():
        raise click.BadParameter("it is empty: a name tells whose token it is", param_hint="'NAME'")
    made = tokens.make()
    if out is None:
        click.echo(f"# the token, which is shown only now:\n# {made}")
    else:
        _write(out, made)
    click.echo(f"tokens:\n  - name: {json.dumps(name)}\n    hash: {tokens.hashed(made)}")


def _write(path: str, text: str) -> None:
    """To a file that did not exist before, so that nothing of somebody else is overwritten, or reads along."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
