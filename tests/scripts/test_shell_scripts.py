"""The scripts that a person types."""

from __future__ import annotations

import pytest

from tests.support import ROOT
from tests.support.engines.processes import EngineProcess


@pytest.mark.skipif(not (ROOT / ".venv" / ".installed").exists(), reason="scripts/serve would install the project first")
def test_serve_hands_its_options_and_signals_to_the_engine() -> None:
    engine = EngineProcess(["--host", "127.0.0.1"], serve=[str(ROOT / "scripts" / "serve")])
    try:
        assert engine.url == f"ws://127.0.0.1:{engine.port}"
        assert engine.stop() == 0
    finally:
        engine.kill()
