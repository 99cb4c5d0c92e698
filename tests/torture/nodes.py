"""A Redis Cluster that is hurt: masters die and are replaced, slots move to and fro under traffic, a node comes and goes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from itertools import count

import redis

from iii_state.adapters.redis.cluster.tags import partition_of, slot_of, tags
from tests.support.redis.nodes import Node, Nodes
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import default_binary
from tests.torture.meddling import PREFIX, client_of, counted_as_lost, damage, hset_or_hdel
from tests.torture.writes import HURT, OUTSIDE, SCOPES

PARTITIONS = 16
"""Of the torture: four engines with 64 each would be busy with themselves on two cores."""

TIMEOUT_MS = 2000
"""After so long a master counts as failed; one that is stopped for a moment only does not, on a busy machine either."""

KEYS_PER_STEP = 4
STEP_SECONDS = 0.01


class HurtNodes:
    """Three masters with a replica each. Connections of engines pass a proxy per node."""

    def __init__(self, nodes: Nodes, proxies: list[Proxy]) -> None:
        self.nodes = nodes
        self.proxies = proxies
        self.moves = 0
        self._turns = count()

    @classmethod
    async def start(cls, stack: AsyncExitStack) -> HurtNodes:
        """Start it; it ends with the stack."""
        closing = ExitStack()
        stack.callback(closing.close)
        nodes = await asyncio.to_thread(Nodes, closing)
        proxies = [await stack.enter_async_context(proxy_to(node.port)) for node in nodes.nodes]
        for node, proxy in zip(nodes.nodes, proxies, strict=True):
            node.announce(proxy.port)
        await asyncio.to_thread(nodes.wait_until_whole)
        nodes.set_timeout(TIMEOUT_MS)
        return cls(nodes, proxies)

    @property
    def url(self) -> str:
        """A way into it that is hurt."""
        return self.proxies[0].url

    async def hurt(self, verb: str, target: int, seconds: float) -> None:
        """Hurt a shard, or what moves to and from it; returns when all is whole again."""
        nodes, shard = self.nodes, self.nodes.shards[target]
        match verb:
            case "kill":
                master = await asyncio.to_thread(nodes.master, shard)
                master.kill()
                await asyncio.to_thread(nodes.wait_for_takeover, shard, master)
                await asyncio.sleep(seconds)
            case "stop":
                master = await asyncio.to_thread(nodes.master, shard)
                master.pause()
                await asyncio.sleep(seconds)
            case "fail over":
                await asyncio.to_thread(nodes.fail_over, shard)
            case "move":
                await self._move(seconds)
            case "add":
                await self._add(seconds)
            case "flush":
                for node in nodes.running:
                    await asyncio.to_thread(node.client.script_flush)
            case _:
                raise AssertionError(verb)
        await asyncio.to_thread(nodes.revive)

    async def lose(self, scope: str, seconds: float) -> None:
        """Let the replica of a scope's master fall behind for so long, kill the master, and have the replica take its place."""
        nodes = self.nodes
        shard = await asyncio.to_thread(nodes.shard_of, _slot_of(scope))
        master, replica = await asyncio.to_thread(lambda: (nodes.master(shard), nodes.replica(shard)))
        replica.client.config_set("masterauth", "none that would be let in")
        master.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        await asyncio.sleep(seconds)
        master.kill()
        await asyncio.to_thread(nodes.wait_for_takeover, shard, master)
        replica.client.config_set("masterauth", "")
        await asyncio.to_thread(nodes.revive)

    # -- what other programs do

    def write(self, key: str, text: str | None) -> bool:
        """Write as another program does, past the engines. True where a replica has it, too: it will not be lost then."""
        name = self._prefix_of(OUTSIDE) + f"state:{OUTSIDE}"
        try:
            master = self._master_of(OUTSIDE)
        except AssertionError as error:  # there is none just now, or two say that they are
            raise redis.ConnectionError(str(error)) from None
        with client_of(master.port).client() as client:
            hset_or_hdel(client, name, key, text)
            return bool(client.wait(1, 1000) >= 1)

    def damage(self, verb: str, target: int, function_id: str) -> None:
        """Damage keys of the queue of a function, whose scope is `HURT`."""
        damage(self._master_of(HURT).client, verb, target, function_id, self._prefix_of(HURT) + PREFIX)

    def counted_as_lost(self) -> dict[str, int]:
        """Of each function whose scope is `HURT`, how many of its events the engines say are lost."""
        return counted_as_lost(self._master_of(HURT).client, self._prefix_of(HURT) + PREFIX)

    def _master_of(self, scope: str) -> Node:
        return self.nodes.master(self.nodes.shard_of(_slot_of(scope)))

    def _prefix_of(self, scope: str) -> str:
        return tags(PARTITIONS)[partition_of(scope.encode(), PARTITIONS)].decode()

    async def _move(self, seconds: float) -> None:
        """Move the slot of one of the scopes to another shard, and, a moment later, back."""
        nodes, slots = self.nodes, _slots()
        slot = slots[next(self._turns) % len(slots)]
        here = await asyncio.to_thread(nodes.shard_of, slot)
        there = nodes.shards[(nodes.shards.index(here) + 1) % len(nodes.shards)]
        for target in (there, here):
            await self._move_slot(slot, target)
            await asyncio.sleep(seconds)

    async def _move_slot(self, slot: int, target: list[Node]) -> None:
        """Key by key; on Valkey every other time as a whole."""
        self.moves += 1
        if self.moves % 2 and "valkey" in default_binary():
            await asyncio.to_thread(self.nodes.move_at_once, slot, slot, target)
            return
        move = await asyncio.to_thread(self.nodes.moving, slot, target)
        await asyncio.to_thread(move.begin)
        while await asyncio.to_thread(move.step, KEYS_PER_STEP):
            await asyncio.sleep(STEP_SECONDS)
        await asyncio.to_thread(move.finish)

    async def _add(self, seconds: float) -> None:
        """Add a master, move some of the slots there, and take it away again."""
        added = await asyncio.to_thread(self.nodes.add_shard)
        homes = [(slot, await asyncio.to_thread(self.nodes.shard_of, slot)) for slot in _slots()[::2]]
        for slot, _ in homes:
            await self._move_slot(slot, added)
        await asyncio.sleep(seconds)
        for slot, home in homes:
            await self._move_slot(slot, home)
        await asyncio.to_thread(self.nodes.remove_shard, added)


def _slots() -> list[int]:
    """Those of the scopes that are written to, each once."""
    return list(dict.fromkeys(map(_slot_of, SCOPES["cluster"])))


def _slot_of(scope: str) -> int:
    return slot_of(tags(PARTITIONS)[partition_of(scope.encode(), PARTITIONS)])
