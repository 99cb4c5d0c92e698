"""What an engine lists: its functions, its workers, its trigger types. Read leniently, since versions differ."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from iii_state import values
from iii_state.client.client import Client
from iii_state.errors import FunctionError
from iii_state.host import DEFAULT_NAMESPACE

ASK_SECONDS = 10.0


class Row(msgspec.Struct, frozen=True):
    """One function. `store` is the id of the store that stands in its metadata, None for a function that is none of ours."""

    namespace: str
    function_id: str
    store: str | None
    worker_name: str


async def functions(client: Client) -> list[Row] | None:
    """The functions of an engine, None where it does not tell. Raises `ConnectionLost`."""
    listed = await _ask(client, "engine::functions::list", b'{"include_internal":true}')
    rows = listed.get("functions") if isinstance(listed, dict) else listed
    if not isinstance(rows, list):
        return None
    return [_row(row) for row in rows if isinstance(row, dict)]


async def workers(client: Client) -> dict[str, str] | None:
    """The names of the connected workers by their ids, None where an engine does not tell. Raises `ConnectionLost`."""
    listed = await _ask(client, "engine::workers::list", b"{}")
    rows = listed.get("workers") if isinstance(listed, dict) else listed
    if not isinstance(rows, list):
        return None
    return {str(row.get("id")): str(row.get("name") or "") for row in rows if isinstance(row, dict)}


async def types(client: Client) -> dict[str, str] | None:
    """The names of those who provide trigger types (empty where an engine does not say) by the types' ids.

    None where the engine does not tell. Raises `ConnectionLost`.
    """
    listed = await _ask(client, "engine::trigger-types::list", b'{"include_internal":true}')  # 0.12
    rows = listed.get("trigger_types") if isinstance(listed, dict) else None
    if rows is None:
        listed = await _ask(client, "engine::triggers::list", b'{"include_internal":true}')
        rows = listed.get("triggers") if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        return None
    return {
        str(row.get("id")): str(row.get("worker_name") or "")
        for row in rows
        if isinstance(row, dict) and (row.get("namespace") or DEFAULT_NAMESPACE) == DEFAULT_NAMESPACE
    }


async def _ask(client: Client, function_id: str, data: bytes) -> Any:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            result = await client.call(function_id, data)
    except (FunctionError, TimeoutError):
        return None
    return None if result is None else values.decode(result)


def _row(row: dict[str, Any]) -> Row:
    metadata = row.get("metadata")
    about = metadata.get("iii_state") if isinstance(metadata, dict) else None
    store = about.get("store") if isinstance(about, dict) else None
    return Row(
        str(row.get("namespace") or DEFAULT_NAMESPACE),
        str(row.get("function_id") or row.get("id") or ""),
        store if isinstance(store, str) else None,
        str(row.get("worker_name") or ""),
    )
