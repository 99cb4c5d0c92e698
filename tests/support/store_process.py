"""A process of its own around a store, for tests that kill it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support import ROOT


def script(body: str, directory: Path, **options: object) -> subprocess.Popen[str]:
    """A process that runs `body` inside `async def main(store)`; `say` prints a line at once."""
    program = f"""
import asyncio, os, resource, signal, sys
from pathlib import Path
import uvloop
from iii_state.errors import StoreError
from iii_state.events import Subscription
from tests.support.stores import Store, opened

def say(*words):
    print(*words, flush=True)

async def main(directory):
{textwrap.indent(textwrap.dedent(body), "    ")}

uvloop.run(main(Path({str(directory)!r})))
"""
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,  # type: ignore[call-overload]
    )
    return process
