"""Whom an engine lets in: origins and hosts, tokens and certificates, failed attempts."""

from iii_state.guard.guard import Guard
from iii_state.guard.origins import Asked

__all__ = ["Asked", "Guard"]
