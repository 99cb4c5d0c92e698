"""The files of the page, as they are sent: read once, when somebody asks first, and kept compressed as well."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file: what it is, its content, the same compressed, and a tag that changes with it."""

    content_type: str
    content: bytes
    compressed: bytes
    etag: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files by their path below the page, `index.html` and `ui/…`."""
    return dict(_found(files("iii_state.web") / "static", ""))


def _found(folder: Traversable, path: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for each in folder.iterdir():
        name = f"{path}{each.name}"
        if each.is_dir():
            found += _found(each, f"{name}/")
        elif (content_type := _TYPES.get(name.rpartition(".")[2])) is not None:
            content = each.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:20]
            found.append((name, Asset(content_type, content, gzip.compress(content, 9, mtime=0), f'"{tag}"')))
    return found
