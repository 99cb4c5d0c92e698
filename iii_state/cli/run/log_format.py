"""`--log-format`: the log of a process for people, or, as JSON, for machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from iii_state.observe.logs import JsonLines

C = TypeVar("C", bound=Callable[..., Any])

_OWN = "iii_state"


def log_format_option(command: C) -> C:
    """`--log-format text|json`, which holds from the moment it is read."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=lambda context, option, chosen: _take(context, chosen),
        help="How the log on standard error is written: lines for people, or a JSON object a line.",
    )(command)


def _take(context: click.Context, chosen: str) -> None:
    if chosen != "json":
        return
    context.meta[_OWN] = True
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(_OWN).critical("the process ends: %s", error, exc_info=(kind, error, trace))


def is_json() -> bool:
    """Whether the command that runs writes its log as JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and _OWN in context.meta


def say(words: str) -> None:
    """A line that is written whatever is logged: the process listens, is attached, stands by."""
    if is_json():
        logger = logging.getLogger(_OWN)
        logger.handle(logger.makeRecord(_OWN, logging.INFO, __file__, 0, words, (), None))
    else:
        click.echo(words, err=True)


class LoggedCommand(click.Command):
    """A command whose errors are lines of its log, where that is JSON."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if _OWN not in ctx.meta or isinstance(error, click.UsageError):
                raise
            logging.getLogger(_OWN).critical("%s", error.format_message())
            ctx.exit(error.exit_code)
