"""Tests that run with `--slow` only: proofs that take long, and those of one thing at one more store, server or event loop.

A whole test is marked `@pytest.mark.slow`; one of its parameters is `slow(value)`.
"""

from __future__ import annotations

from typing import Any

import pytest


def slow(value: Any) -> Any:
    """A parameter with which a test runs with `--slow` only."""
    return pytest.param(value, marks=pytest.mark.slow)
