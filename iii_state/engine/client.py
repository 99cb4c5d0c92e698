"""A client of an iii engine: calls functions, serves functions, registers triggers, over one WebSocket."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiohttp
from msgspec import Raw

from iii_state import values
from iii_state.engine import protocol
from iii_state.errors import FunctionError
from iii_state.values import Json

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0

Served = Callable[[Json], Awaitable[bytes | None]]


class ConnectionLost(Exception):
    """The engine could not be reached, or went away; the message says where and why."""


class Client:
    """One connection to an engine; use with `async with`. Data passes as JSON text.

    `url` is `ws://HOST:PORT`. Entering raises `ConnectionLost` when nobody answers there.
    """

    def __init__(self, url: str, *, name: str = "iii-state-cli") -> None:
        self.url = url
        self._name = name
        self._calls: dict[str, asyncio.Future[bytes | None]] = {}
        self._served: dict[str, Served] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._refused: dict[str, asyncio.Future[None]] = {}
        self._lost: ConnectionLost | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._socket = await self._session.ws_connect(
                    self.url, max_msg_size=protocol.MAX_FRAME_BYTES, compress=0, heartbeat=20
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            await self._session.close()
            cause = _cause(error)
            raise ConnectionLost(f"no iii engine answers at {self.url}: {cause}. Is `iii-state serve` running there?") from None
        self._reader = asyncio.create_task(self._read())
        await self._introduce()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._reader, *self._handlers):
            task.cancel()
        await asyncio.gather(self._reader, *self._handlers, return_exceptions=True)
        await self._socket.close()
        await self._session.close()

    async def call(self, function_id: str, data: bytes, *, timeout: float = CALL_SECONDS) -> bytes | None:
        """Call a function. Raises `FunctionError` with the engine's code, `TIMEOUT`, or `ConnectionLost`."""
        invocation_id = str(uuid.uuid4())
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._calls[invocation_id] = answer
        try:
            await self._send(protocol.invoke_frame(invocation_id, values.encode_string(function_id), data))
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise FunctionError("TIMEOUT", f"{function_id} has not answered within {timeout:g} s") from None
        finally:
            self._calls.pop(invocation_id, None)

    async def serve(self, function_id: str, handler: Served) -> None:
        """Register a function that `handler` answers: JSON text in, JSON text or None out."""
        self._served[function_id] = handler
        await self._send(protocol.encode(protocol.RegisterFunction(function_id)))

    async def register_trigger(self, trigger_type: str, function_id: str, config: dict[str, Any]) -> str:
        """Register a trigger, and wait until the engine has it; returns its id. Raises `FunctionError` if it is refused."""
        trigger_id = str(uuid.uuid4())
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused[trigger_id] = refused
        message = protocol.RegisterTrigger(trigger_id, trigger_type, function_id, Raw(values.encode(config)))
        try:
            await self._send(protocol.encode(message))
            # Frames of one connection are handled in order and success is silent, so an answer to anything later is the sign.
            await self.call("engine::triggers::list", b"{}")
            if refused.done():
                refused.result()
        finally:
            del self._refused[trigger_id]
        return trigger_id

    async def closed(self) -> None:
        """Wait until the connection ends, and raise `ConnectionLost`."""
        await asyncio.shield(self._reader)
        raise self._lost or ConnectionLost(f"the connection to {self.url} has ended")

    async def _introduce(self) -> None:
        about = {
            "runtime": "python",
            "version": "0.25.0",
            "name": f"{self._name}:{os.getpid()}",
            "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "pid": os.getpid(),
        }
        message = protocol.InvokeFunction("engine::workers::register", Raw(values.encode(about)), action=Raw(b'{"type":"void"}'))
        await self._send(protocol.encode(message))

    async def _send(self, frame: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            await self._socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(f"the connection to {self.url} was lost: {_cause(error)}") from None

    async def _read(self) -> None:
        reason = "the engine closed it"
        try:
            while True:
                frame = await self._socket.receive()
                if frame.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    text = frame.data.encode() if isinstance(frame.data, str) else frame.data
                    self._receive(text)
                elif frame.type is aiohttp.WSMsgType.ERROR:
                    reason = str(self._socket.exception())
                    break
                else:
                    break
        finally:
            self._lost = ConnectionLost(f"the connection to {self.url} was lost: {reason}")
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(self._lost)

    def _receive(self, frame: bytes) -> None:
        try:
            message = protocol.decode(frame)
        except (ValueError, RecursionError) as error:
            logger.warning("a frame of %s cannot be read: %s", self.url, error)
            return
        if isinstance(message, protocol.InvocationResult):
            answer = self._calls.get(message.invocation_id)
            if answer is not None and not answer.done():
                failure = protocol.read_error(message.error)
                if failure is not None:
                    answer.set_exception(failure)
                else:
                    answer.set_result(bytes(message.result) if message.result else None)
        elif isinstance(message, protocol.InvokeFunction):
            task = asyncio.create_task(self._answer(message))
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)
        elif isinstance(message, protocol.TriggerRegistrationResult):
            refused = self._refused.get(message.id)
            failure = protocol.read_error(message.error)
            if refused is not None and failure is not None and not refused.done():
                refused.set_exception(failure)

    async def _answer(self, message: protocol.InvokeFunction) -> None:
        function_id = values.encode_string(message.function_id)
        handler = self._served.get(message.function_id)
        error: FunctionError | None = None
        result: bytes | None = None
        if handler is None:
            error = FunctionError("function_not_found", f"Function {message.function_id} not found")
        else:
            try:
                result = await handler(message.data)
            except FunctionError as failure:
                error = failure
            except Exception as failure:
                logger.exception("%s failed", message.function_id)
                error = FunctionError("invocation_failed", str(failure))
        if not message.invocation_id:
            return
        if error is None:
            await self._send(protocol.result_frame(message.invocation_id, function_id, result))
        else:
            await self._send(protocol.error_frame(message.invocation_id, function_id, error))


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__
