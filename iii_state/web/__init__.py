"""The web page of an engine: its files, and how a browser is answered that asks for them."""

from __future__ import annotations

from iii_state.web.page import add_page, answer_with_page

__all__ = ["add_page", "answer_with_page"]
