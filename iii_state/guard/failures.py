"""Failed attempts, counted per address, and how long the next answer to one takes.

Tokens are too long to be guessed; this keeps an address that tries from filling the log and the processor. A good token is
answered at once, whatever else its address has tried: nobody is locked out by a neighbour behind the same router.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

FREE = 3
"""So many failures are answered at once."""

LONGEST_SECONDS = 5.0
FORGOTTEN_AFTER_SECONDS = 600.0
MAX_ADDRESSES = 4096
"""Beyond this the address that has been quiet for longest is forgotten."""

MAX_WAITING = 64
"""So many answers wait at once; beyond it they are given at once, since a connection that waits is memory."""


class Failures:
    """The failures of late. `now` is a time in seconds, of a clock that does not go back."""

    def __init__(self) -> None:
        self.waiting = 0
        """Answers that are being held back."""
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._counts)

    def note(self, address: str, now: float) -> float:
        """Count a failure; returns for how many seconds its answer is to be held back."""
        network = network_of(address)
        count, last = self._counts.pop(network, (0, now))
        if now - last > FORGOTTEN_AFTER_SECONDS:
            count = 0
        self._counts[network] = (count + 1, now)
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        if count < FREE or self.waiting >= MAX_WAITING:
            return 0.0
        return min(LONGEST_SECONDS, 0.1 * 2.0 ** min(count - FREE, 16))


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, since one machine can have all of these."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
