"""What Redis refuses, and why a connection could not be made, in words."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Any

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import RedisCall
from iii_state.errors import NoAnswer, OldValueUnknown, OutcomeUnknown, StoreError

_TROUBLE = re.compile(
    r"\b(WRONGPASS|NOAUTH|NOPERM|READONLY|OOM|LOADING|MASTERDOWN|BUSY|MISCONF|NOREPLICAS|WRONGTYPE|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|CROSSSLOT"
    r"|DENIED|can't run this command|can't access at least one of the keys|ACL failure|max number of clients)\b"
)


REDIRECTIONS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""How a node of a cluster refuses a call for the slot of its keys: it has looked at nothing else, and changed nothing."""


def trouble_of(text: str) -> str:
    """The word that tells what an error reply is about, wherever in it a script's error has put it; empty for any other."""
    found = _TROUBLE.search(text)
    if found is None:
        return ""
    return "NOPERM" if found[0].startswith(("can't", "ACL")) else found[0]


def redirection_of(text: str) -> str:
    """The word with which a node of a cluster refuses a call for the slot of its keys; empty for any other error reply."""
    word = text.partition(" ")[0]
    return word if word in REDIRECTIONS else ""


def explain(address: Address, text: str) -> str:
    """An error reply in words."""
    match trouble_of(text):
        case "WRONGPASS":
            return f"Redis at {address} does not accept the user name and password of redis_url"
        case "NOAUTH":
            return f"Redis at {address} asks for a password; give it in redis_url"
        case "NOPERM":
            return f"the user of redis_url may not do this on Redis at {address}: {_cause(text)}"
        case "READONLY" if address.name:
            return f"Redis at {address} is a replica by now"
        case "READONLY":
            return f"Redis at {address} is a read-only replica; redis_url has to name its primary"
        case "OOM":
            return f"Redis at {address} is out of memory (maxmemory) and takes no writes that need more"
        case "LOADING":
            return f"Redis at {address} is still loading its data"
        case "MASTERDOWN":
            return f"Redis at {address} is a replica that has lost its primary"
        case "BUSY":
            return f"Redis at {address} is busy with a script that does not end"
        case "MISCONF":
            return f"Redis at {address} cannot write its data to disk, and takes no writes until it can (MISCONF)"
        case "NOREPLICAS":
            return f"Redis at {address} has fewer replicas than it wants (min-replicas-to-write), and takes no writes"
        case "MOVED":
            return f"Redis at {address} serves the slot no more; another node of the Redis Cluster does"
        case "ASK" | "TRYAGAIN":
            return f"the slot is being moved from Redis at {address} to another node of the Redis Cluster"
        case "CLUSTERDOWN":
            return f"the Redis Cluster is down, says Redis at {address}: {_cause(text)}"
        case "DENIED":
            return f"Redis at {address} is in protected mode: it has no password and takes no connections from other machines"
        case "max number of clients":
            return f"Redis at {address} has as many connections as it takes (maxclients)"
    return f"Redis at {address} answered: {_cause(text)}"


def _cause(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}…"


def explain_failure(address: Address, error: Exception) -> str:
    """Why a connection could not be made, in words."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Redis at {address} has a certificate that is not accepted: {error.verify_message or error.reason}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with Redis at {address} failed: {error.reason or text}; does it speak TLS on this port?"
    if isinstance(error, TimeoutError):
        return f"Connection to Redis at {address} timed out"
    if isinstance(error, socket.gaierror):
        return f"Connection to Redis at {address} failed: there is no host of this name ({error.strerror})"
    if isinstance(error, ConnectionRefusedError) or "Errno 111" in text or "Errno 61]" in text:
        return f"Connection to Redis at {address} refused: nobody listens there (is it running, on that port?)"
    if isinstance(error, FileNotFoundError):
        return f"Connection to Redis at {address} failed: there is no such socket"
    if isinstance(error, ConnectionError):
        hint = " (does it speak TLS on this port?)" if address.tls is not None else ""
        return f"Connection to Redis at {address} was closed by the other side{hint}"
    return f"Connection to Redis at {address} failed: {getattr(error, 'strerror', None) or text or type(error).__name__}"


# -- of a call


def is_damage(text: str) -> bool:
    """Whether an error reply says that Redis holds something else than iii-state has left there."""
    return trouble_of(text) == "WRONGTYPE" or "NOGROUP" in text or "user_script" in text or "not an integer" in text


def is_of_another_server(text: str) -> bool:
    """Whether another server may answer at this address by now, to which a new connection leads."""
    return trouble_of(text) == "NOAUTH" or is_of_former_primary(text)


def is_of_former_primary(text: str) -> bool:
    """Whether the server is a replica by now, loads what its primary has sent, or serves the slot no more: it has changed nothing,
    and the next may."""
    return trouble_of(text) in ("READONLY", "MASTERDOWN", "LOADING") or redirection_of(text) == "MOVED"


def is_of_moving_slot(text: str) -> bool:
    """Whether a node of a cluster has changed nothing, and it or another one will take the call a little later."""
    return redirection_of(text) in ("ASK", "TRYAGAIN", "CLUSTERDOWN")


def refusal_of(address: Address, call: RedisCall[Any], text: str) -> StoreError:
    """What a call fails with that has got this error reply."""
    if trouble_of(text) == "WRONGTYPE" and call.scope is not None:
        return StoreError(
            f"a key on Redis at {address} has the wrong type: state:{call.scope}, or one that iii-state keeps: {text}"
        )
    # In Lua's own words: scripts compute first and write last, so nothing is half done.
    if call.mutates and "user_script" in text and ": attempt to " in text:
        return StoreError(
            f"a script stumbled on Redis at {address}: a value in scope {call.scope!r}, or what iii-state keeps "
            f"for it, is not as iii-state writes it; nothing was changed ({text[:200]})"
        )
    return StoreError(explain(address, text))


def too_late(call: RedisCall[Any], why: str, *, sent: bool) -> StoreError:
    """What a call fails with that was not answered in time; `sent` tells whether it may have reached Redis."""
    if not call.mutates:
        return NoAnswer(why)
    if sent:
        return OutcomeUnknown(f"{why}; whether the change was made is not known")
    return NoAnswer(f"{why}; nothing was changed")


def closed_before_an_answer(address: Address, *, was_sent: bool) -> StoreError:
    """The engine ends its connection; `was_sent` tells of a mutation that Redis may have carried out."""
    why = f"the connection to Redis at {address} has been closed"
    return OutcomeUnknown(f"{why}; whether the change was made is not known") if was_sent else StoreError(why)


def record_lost(address: Address) -> OutcomeUnknown:
    """An earlier connection had carried a mutation, and the session that would tell is gone."""
    return OutcomeUnknown(
        f"the connection to Redis at {address} broke, and Redis has lost its record of this call: "
        "whether the change was made is not known"
    )


def carried_before(address: Address, error: Exception) -> OutcomeUnknown:
    """A mutation was refused, but an earlier connection had carried it, and that is not fenced: see `RequestId`."""
    return OutcomeUnknown(
        f"{error}; but an earlier connection to Redis at {address} had carried this call, too: "
        "whether the change was made is not known"
    )


def old_value_lost(address: Address) -> OldValueUnknown:
    """A mutation was applied over an earlier connection, and the record holds no old value."""
    return OldValueUnknown(
        f"the change was made, but the connection to Redis at {address} broke before it could say what it replaced"
    )
