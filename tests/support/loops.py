"""The event loops that tests run on: uvloop, which `serve` and `attach` use, and asyncio's own, too, where a test asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
