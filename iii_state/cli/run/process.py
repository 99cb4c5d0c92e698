"""The process of an engine or a worker: its signals, and its garbage collector."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
from types import FrameType

import click

logger = logging.getLogger(__name__)


def stopped_by_signals() -> asyncio.Event:
    """Set by SIGTERM or Ctrl-C, for a clean stop; another one of either ends the process at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopped.is_set():  # it had arrived together with the first one
            _end_at_once(number)
        stopped.set()
        # The loop's handlers stay, for a signal that it has not looked at yet. Not SIG_DFL: Python has nobody to tell then of a
        # signal that it has noted already, and prints a traceback.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _end_at_once)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopped


def _end_at_once(number: int, _: FrameType | None = None) -> None:
    """End as a program does that handles no signals."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def asks_for_level() -> bool:
    """Whether `--verbose` says what is logged, which goes before `log_level` of the configuration."""
    return bool(click.get_current_context().find_root().params.get("verbose"))


def collect_less() -> None:
    """Have the garbage collector run seldom, and pass over what has been imported.

    A call makes no cycles. With the defaults, full collections stop an engine with many values for some 25 ms at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def why_not(error: OSError) -> str:
    """Why nothing can listen at an address, and what to do; asyncio's own text has the address once more."""
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; stop it, or name another one with --port (0 takes a free one)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0) if known else error.strerror or str(error)
