"""A worker made of nothing but frames: what it sends and what it gets is the test's to say."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp

SECONDS = 10.0

Frame = dict[str, Any]


class RawWorker:
    """One connection to an engine's port. `hello` is the engine's first frame."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.hello: Frame = {}
        self._unread: list[Frame] = []

    @property
    def id(self) -> str:
        worker_id: str = self.hello["worker_id"]
        return worker_id

    async def send(self, type: str, **members: Any) -> None:
        """Send a message."""
        await self.socket.send_str(json.dumps({"type": type, **members}))

    async def next(self) -> Frame:
        """The next frame that nothing has looked at yet."""
        return self._unread.pop(0) if self._unread else await self._receive()

    async def _receive(self) -> Frame:
        message = await self.socket.receive(SECONDS)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        frame = json.loads(message.data)
        assert isinstance(frame, dict)
        return frame

    async def expect(self, type: str, **members: Any) -> Frame:
        """The first frame of this type that has these members; others stay for later."""

        def fits(frame: Frame) -> bool:
            return frame["type"] == type and all(frame.get(name) == value for name, value in members.items())

        return await self._first(fits)

    async def _first(self, fits: Callable[[Frame], bool]) -> Frame:
        for index, frame in enumerate(self._unread):
            if fits(frame):
                return self._unread.pop(index)
        while not fits(frame := await self._receive()):
            self._unread.append(frame)
        return frame

    async def call(self, function_id: str, data: Any = None, **members: Any) -> Frame:
        """Call a function and wait for the outcome."""
        invocation_id = members.pop("invocation_id", None) or str(uuid.uuid4())
        await self.send("invokefunction", function_id=function_id, data=data, invocation_id=invocation_id, **members)
        return await self.expect("invocationresult", invocation_id=invocation_id)

    async def answer(self, invocation: Frame, **outcome: Any) -> None:
        """Answer a call that the engine has sent."""
        members = {"invocation_id": invocation["invocation_id"], "function_id": invocation["function_id"]}
        await self.send("invocationresult", **members, **outcome)

    async def settled(self) -> list[Frame]:
        """All frames that came before the engine had seen everything sent so far."""
        await self.send("ping")
        await self.expect("pong")
        frames, self._unread = self._unread, []
        return frames

    async def closed(self) -> int | None:
        """Wait for the connection's end; the close code."""
        while True:
            message = await self.socket.receive(SECONDS)
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                return self.socket.close_code
            assert message.type is not aiohttp.WSMsgType.ERROR, message


class Port:
    """An engine's port, to which a test connects as often as it likes."""

    def __init__(self, session: aiohttp.ClientSession, host: str, port: int) -> None:
        self.session = session
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}"
        self._workers: list[RawWorker] = []

    async def disconnect(self) -> None:
        """Let all workers go: an engine that is stopped waits for what they run."""
        for worker in self._workers:
            await worker.socket.close()

    async def connect(self, **description: Any) -> RawWorker:
        """A worker; with a description, one that has introduced itself."""
        socket = await self.session.ws_connect(f"{self.url}/", max_msg_size=0)
        worker = RawWorker(socket)
        self._workers.append(worker)  # a socket that nobody refers to would be closed
        worker.hello = await worker.next()
        if description:
            await worker.call("engine::workers::register", description)
        return worker
