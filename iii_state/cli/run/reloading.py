"""Settings that change while it runs: read again on SIGHUP, and when a file has changed that they came from."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import click

from iii_state.config import Settings, need_restart
from iii_state.errors import ConfigError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the files are looked at. One is read when it has stayed as it is for so long: its writer has finished."""

Seen = tuple[tuple[str, int, int, int] | None, ...]


class Reloading:
    """Applies a configuration anew. `apply` reads and applies all of it and returns its settings, or raises and changes nothing.

    `files` are those that settings came from, `running` the settings that it has been started with.
    """

    def __init__(
        self,
        apply: Callable[[], Awaitable[Settings]],
        files: Callable[[Settings], Iterable[Path]],
        running: Settings,
        *,
        keeps_level: bool,
    ) -> None:
        self._apply = apply
        self._files = files
        self._running = self._settings = running
        self._keeps_level = keeps_level
        self._lock = asyncio.Lock()
        self._tasks = Background()
        self._applied = self._look()
        self._set_level()

    def start(self) -> None:
        """Listen to SIGHUP and look at the files, until `stop`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.start(self.reload(), "reading the configuration again"))
        self._tasks.start(self._look_regularly(), "looking whether the configuration has changed")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()

    async def reload(self) -> None:
        """Read and apply everything. What cannot be used is a line in the log, and so is what needs a restart."""
        async with self._lock:
            self._applied = self._look()
            try:
                settings = await self._apply()
            except (ConfigError, click.ClickException) as error:
                logger.error("the configuration is as it was: %s", error)
                return
            waiting = need_restart(self._running, settings)
            if waiting and settings != self._settings:
                logger.warning("applied, but for what needs a restart: %s", ", ".join(waiting))
            is_moved = list(self._files(settings)) != list(self._files(self._settings))
            self._settings = settings
            self._set_level()
            if is_moved:
                self._applied = self._look()
            logger.info("the configuration has been read again")

    async def _look_regularly(self) -> None:
        before = self._applied
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._look()
            if now != self._applied and now == before:
                await self.reload()
            before = now

    def _look(self) -> Seen:
        return tuple(_seen(path) for path in self._files(self._settings))

    def _set_level(self) -> None:
        if not self._keeps_level:
            logging.getLogger().setLevel(self._settings.log_level.upper())


def _seen(path: Path) -> tuple[str, int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return (str(path), about.st_mtime_ns, about.st_size, about.st_ino)
