"""What must not be served at an engine: what another store serves there, and what is that engine's own, over a bridge."""

from __future__ import annotations

from iii_state.attach import listing
from iii_state.attach.host import DEFAULT_PREFIX, AttachedHost
from iii_state.client.about import bridge_name
from iii_state.client.client import Client
from iii_state.host import DEFAULT_NAMESPACE

BUILT_IN = "iii-state"
"""What a stock engine calls its own state worker."""


async def find(client: Client, host: AttachedHost, store: str | None) -> str | None:
    """In words that another worker serves what this host is to serve, None where none does. Raises `ConnectionLost`."""
    listed = {row.function_id: row for row in await listing.functions(client) or () if row.namespace == DEFAULT_NAMESPACE}
    rows = [listed[function_id] for function_id in host.function_ids if function_id in listed]
    conflict = among(rows, client, host, store)
    if conflict is None and not rows and host.prefix == DEFAULT_PREFIX:
        names = await listing.workers(client) or {}
        if BUILT_IN in names or BUILT_IN in names.values():
            return _words(listing.Row(DEFAULT_NAMESPACE, "state::set", None, BUILT_IN), client.url, host.prefix)
    return conflict


async def ring(client: Client, bridges: list[str]) -> str | None:
    """In words that one of the bridges on the way to the store leads to this very engine, whatever address it knows it by; None
    where none does. Raises `ConnectionLost`."""
    names = set((await listing.workers(client) or {}).values()) if bridges else set()
    if any(bridge_name(bridge) in names for bridge in bridges):
        return (
            f"a bridge must not lead back to itself: the state of {client.url} would be that of {client.url}; "
            "name another engine with --bridge-url, or with --engine"
        )
    return None


def among(rows: list[listing.Row], client: Client, host: AttachedHost, store: str | None) -> str | None:
    """The same of listed functions. One that does not say from which store it is served is like its worker's `set`."""
    own_set = host.name_of("state::set")
    stores = {row.worker_name: row.store for row in rows if row.function_id == own_set and row.worker_name}
    others = [row for row in rows if (row.store or stores.get(row.worker_name)) != (store or "")]
    return _words(others[0], client.url, host.prefix) if others else None  # in the order of our own: `set`, if it is one of them


def _words(row: listing.Row, url: str, prefix: str) -> str:
    who = f"worker {row.worker_name}" if row.worker_name else "another provider"
    where = "from another store" if row.store is not None else "which is not iii-state"
    advice = "stop it (a stock engine's own state: leave iii-state out of its configuration)"
    beside = ", or attach beside it with --prefix shared::state" if prefix == DEFAULT_PREFIX else ", or give another --prefix"
    return f"{row.function_id} at {url} is served by {who}, {where}: {advice}{beside}"
