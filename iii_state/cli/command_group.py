"""Groups of commands whose errors say which commands there are."""

from __future__ import annotations

import click


class CommandGroup(click.Group):
    """A group of commands. Where there is none of a name, and none like it, the error names all."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not args[0].startswith("-") and not getattr(error, "possibilities", None):
                raise click.UsageError(f"{error.message} There are: {', '.join(self.list_commands(ctx))}.", ctx) from None
            raise
