"""A real Redis Cluster: masters and their replicas, processes of the tests' own, to kill, to fail over, and to grow."""

from __future__ import annotations

import atexit
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import combinations
from typing import Any

import redis
from redis.crc import key_slot

from tests.support.redis.server import RedisServer
from tests.support.redis.slot_moves import SlotMove, move_at_once
from tests.support.waiting import wait_until

SLOTS = 16_384
PATIENT_MS = 60_000
"""A `cluster-node-timeout` with which nothing fails over by itself: on a machine that is busy a second of silence tells nothing."""

QUICK_MS = 1000
"""One with which a replica takes over about two seconds after its master died."""


class Node(RedisServer):
    """One server of a cluster, a part of none as long as it has not been met. Its bus is at its port and 10,000, as always.

    Args:
        options: more options of redis-server.
        executable: the server to run; `default_binary` unless given.
    """

    def __init__(self, *options: str, executable: str | None = None) -> None:
        self.timeout_ms = PATIENT_MS
        self.announced = 0
        settings = ("--cluster-enabled", "yes", "--cluster-replica-validity-factor", "0")
        super().__init__(*settings, *options, port=_free_port(), executable=executable)
        self.id = str(self.client.execute_command("CLUSTER", "MYID"), "ascii")

    def start(self) -> None:
        """Start it again, as the node that it was."""
        super().start()
        self.set_timeout(self.timeout_ms)
        self.client.config_set("cluster-announce-port", self.announced)
        with suppress(redis.ResponseError):  # 6.2 has it not; without, a node that has lost its slots becomes a replica
            self.client.config_set("cluster-allow-replica-migration", "no")

    def set_timeout(self, ms: int) -> None:
        """Another node that has been silent for so long counts as failed for this one from now on."""
        self.timeout_ms = ms
        self.client.config_set("cluster-node-timeout", ms)

    def view(self) -> dict[str, dict[str, Any]]:
        """What it takes the cluster for: by id of a node its flags, its master, its slots."""
        return {each["node_id"]: each for each in self.client.cluster("NODES").values()}

    def is_running(self) -> bool:
        """Whether the process is there, and not stopped."""
        if self.process.poll() is not None:
            return False
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "T"

    def announce(self, port: int) -> None:
        """Have all others, and clients, take this port for its own: that of a proxy, say."""
        self.announced = port
        self.client.config_set("cluster-announce-port", port)

    def pause(self) -> None:
        """Stop the process (SIGSTOP): its connections stay open, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not self.is_running(), "a node was not stopped")

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


class Nodes:
    """A cluster whose masters share the slots in equal ranges, in the order of `shards`.

    Nothing fails over by itself until `set_timeout`.

    Args:
        stack: closes all of it.
        options: those of each redis-server.
        shards: how many masters.
        replicas: how many of each.
        executable: the server to run; `default_binary` unless given.
    """

    def __init__(self, stack: ExitStack, *options: str, shards: int = 3, replicas: int = 1, executable: str | None = None) -> None:
        self._stack = stack
        self._options = options
        self._executable = executable
        self._timeout_ms = PATIENT_MS
        self._emptied_for = ""
        self.shards = [[self._start() for _ in range(1 + replicas)] for _ in range(shards)]
        """The nodes of each shard, whichever of them is its master by now; none ever changes its shard."""
        for number, (master, *_) in enumerate(self.shards):
            first, end = (SLOTS * each // shards for each in (number, number + 1))
            master.client.cluster("ADDSLOTS", *range(first, end))
            master.client.cluster("SET-CONFIG-EPOCH", str(number + 1))
        for one, other in combinations(self.nodes, 2):
            one.client.cluster("MEET", "127.0.0.1", other.port)
        self._enslave(self.shards)
        self.wait_until_whole()

    @property
    def nodes(self) -> list[Node]:
        """All of them, dead ones included."""
        return [node for shard in self.shards for node in shard]

    @property
    def running(self) -> list[Node]:
        """Those that can answer."""
        return [node for node in self.nodes if node.is_running()]

    @property
    def url(self) -> str:
        """That of a node that runs."""
        return self.running[0].url

    @property
    def seeds(self) -> str:
        """One URL with all nodes that run."""
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.running)

    def client(self) -> Any:
        """A client of redis-py for the whole cluster; replies in bytes."""
        found = redis.RedisCluster.from_url(self.url, protocol=2, socket_timeout=10)
        self._stack.callback(found.close)
        return found

    # Who is what.

    def master(self, shard: list[Node]) -> Node:
        """The master of a shard: who says of itself that it is, and has the newest right to, where two do."""
        found = [(int(node.view()[node.id]["epoch"]), node) for node in shard if node.is_running() and _is_master(node)]
        assert found, "a shard has no master"
        return max(found, key=lambda each: each[0])[1]

    def masters(self) -> list[Node]:
        """The masters of all shards."""
        return [self.master(shard) for shard in self.shards]

    def replica(self, shard: list[Node]) -> Node:
        """A replica of a shard, one that runs."""
        master = self.master(shard)
        return next(node for node in shard if node is not master and node.is_running())

    def shard_of(self, slot: int | bytes | str) -> list[Node]:
        """The shard that serves a slot, or the slot of a key."""
        number = slot if isinstance(slot, int) else key_slot(slot if isinstance(slot, bytes) else slot.encode())
        found = [shard for shard in self.shards if number in self.slots_of(shard)]
        assert len(found) == 1, f"{len(found)} shards say that slot {number} is theirs"
        return found[0]

    def slots_of(self, shard: list[Node]) -> list[int]:
        """The slots that a shard serves, as its master knows them."""
        master = self.master(shard)
        return [slot for part in master.view()[master.id]["slots"] if part for slot in range(int(part[0]), int(part[-1]) + 1)]

    def is_whole(self) -> bool:
        """Whether all nodes run and know each other alike, every slot is served, and every replica follows."""
        views = [_comparable(node.view()) for node in self.nodes if node.is_running()]
        if len(views) < len(self.nodes) or any(view != views[0] for view in views) or len(views[0]) != len(self.nodes):
            return False
        for node in self.nodes:
            replication = node.client.info("replication")
            if node.client.cluster("INFO")["cluster_state"] != "ok" or replication.get("master_link_status", "up") != "up":
                return False
        return [_is_master(node) for shard in self.shards for node in shard].count(True) == len(self.shards)

    def wait_until_whole(self) -> None:
        """Wait for that."""
        wait_until(self._is_whole_now, "the nodes of the cluster have not come together")

    def _is_whole_now(self) -> bool:
        with suppress(redis.ConnectionError, redis.BusyLoadingError, AssertionError):
            return self.is_whole()
        return False

    # What happens to clusters.

    def set_timeout(self, ms: int = QUICK_MS) -> None:
        """A node that has been silent for so long counts as failed from now on, and a replica takes its place."""
        self._timeout_ms = ms
        for node in self.nodes:
            node.timeout_ms = ms
        for node in self.running:
            node.set_timeout(ms)

    def fail_over(self, shard: list[Node], *how: str) -> Node:
        """Have a replica take over from its master, and return it when it has.

        Args:
            how: nothing for the orderly way, in which nothing is lost; FORCE or TAKEOVER do not ask the master.
        """
        replica = self.replica(shard)
        wait_until(lambda: _has_begun_to_take_over(replica, how), "it cannot reach its master")
        wait_until(lambda: [node for node in shard if node.is_running() and _is_master(node)] == [replica], "it has not taken over")
        return replica

    def wait_for_takeover(self, shard: list[Node], old: Node) -> Node:
        """Wait until a shard has another master than the old one, which has been killed or stopped; and return it."""
        rest = [node for node in shard if node is not old]
        wait_until(lambda: any(node.is_running() and _is_master(node) for node in rest), "no replica has taken over", within=60)
        return self.master(rest)

    def revive(self) -> None:
        """Start again what was killed, let go on what was stopped, and wait until the cluster is whole."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.start()
            else:
                node.resume()
        self.wait_until_whole()

    def add_shard(self, replicas: int = 0) -> list[Node]:
        """Start a master that has no slot yet, make it known to the others, and return its shard."""
        shard = [self._start() for _ in range(1 + replicas)]
        for node in shard:
            node.set_timeout(self._timeout_ms)
            for other in self.running:
                other.client.cluster("MEET", "127.0.0.1", node.port)
        self.shards.append(shard)
        self._enslave([shard])
        self.wait_until_whole()
        return shard

    def remove_shard(self, shard: list[Node]) -> None:
        """Take a shard out of the cluster that serves no slot any more, and end its nodes."""
        assert not self.slots_of(shard), "the shard still has slots"
        self.shards.remove(shard)
        for node in shard:
            node.kill()
        for node in self.running:
            for gone in shard:
                node.client.cluster("FORGET", gone.id)
        self.wait_until_whole()

    def moving(self, slot: int, to: list[Node]) -> SlotMove:
        """A move of one slot to another shard, key by key and to be taken in steps; not begun yet."""
        return SlotMove(slot, self.master(self.shard_of(slot)), self.master(to), self.masters())

    def move(self, slot: int, to: list[Node], keys: int = 10) -> None:
        """Move a slot, so many keys at a time, with everything that a client meets on the way."""
        with self.moving(slot, to) as move:
            while move.step(keys):
                pass

    def move_at_once(self, first: int, last: int, to: list[Node]) -> None:
        """Move a range of slots of one shard as Valkey 9 does it, as a whole; returns when it has."""
        move_at_once(first, last, self.master(self.shard_of(first)), self.master(to))

    def vacate(self, shard: list[Node], keys: int = 1000) -> None:
        """Move all slots of a shard to the others, in turn."""
        others = [each for each in self.shards if each is not shard]
        for number, slot in enumerate(self.slots_of(shard)):
            self.move(slot, others[number % len(others)], keys)

    def empty(self, reason: str = "") -> None:
        """Delete everything at every master; not twice for the same reason."""
        if not reason or reason != self._emptied_for:
            self._emptied_for = reason
            for master in self.masters():
                master.client.flushall()

    def elapse(self, ms: int) -> None:
        """Bring all deadlines of values nearer by so much; real time has to do with everything else, too."""
        for master in self.masters():
            master.elapse(ms)

    def _start(self) -> Node:
        node = Node(*self._options, executable=self._executable)
        self._stack.callback(node.close)
        return node

    def _enslave(self, shards: list[list[Node]]) -> None:
        ids = {node.id for node in self.nodes}
        wait_until(lambda: all(set(node.view()) >= ids for node in self.running), "the nodes do not find each other")
        for master, *replicas in shards:
            for replica in replicas:
                replica.client.cluster("REPLICATE", master.id)


def _is_master(node: Node) -> bool:
    return "master" in node.view()[node.id]["flags"].split(",")


def _has_begun_to_take_over(replica: Node, how: tuple[str, ...]) -> bool:
    """It refuses as long as its link to its master is broken, which a machine that is busy does to it now and then."""
    try:
        replica.client.execute_command("CLUSTER", "FAILOVER", *how)
    except redis.ResponseError as error:
        if "Master is down or failed" not in str(error):
            raise
        return False
    return True


def _comparable(view: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all nodes have to agree on: whose replica each is, and which slots each has; and that it has not failed."""
    return {
        name: (each["master_id"], each["slots"], "fail" in each["flags"] or "handshake" in each["flags"])
        for name, each in view.items()
    }


def _free_port() -> int:
    """One whose bus is free, too, and lies below the range from which the system picks ports for outgoing connections."""
    for port in random.sample(range(20_000, 22_700), 200):
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise RuntimeError("no two free ports for a node of a cluster")


@contextmanager
def cluster_nodes(*options: str, **settings: Any) -> Iterator[Nodes]:
    """A cluster for the length of a block; its settings are those of `Nodes`."""
    with ExitStack() as stack:
        yield Nodes(stack, *options, **settings)


@cache
def shared_nodes(executable: str | None = None) -> Nodes:
    """The cluster of this test session, three masters with a replica each, started when it is first asked for."""
    stack = ExitStack()
    atexit.register(stack.close)
    return Nodes(stack, executable=executable)
