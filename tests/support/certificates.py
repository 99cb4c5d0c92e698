"""Certificates of an authority of the tests' own."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._name = name
        self._issued = 0
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, common_name: str | None = None, not_after: datetime | None = None) -> tuple[Path, Path]:
        """A certificate for these names, and its key."""
        self._issued += 1
        made = self._ca.issue_cert(*names, common_name=common_name, not_after=not_after)
        certificate = self._folder / f"{self._name}-{self._issued}.pem"
        key = self._folder / f"{self._name}-{self._issued}.key"
        made.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        for index, blob in enumerate(made.cert_chain_pems):
            blob.write_to_path(str(certificate), append=index > 0)
        return certificate, key

    def trusting(self, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client needs that trusts this authority, and shows a certificate itself."""
        context = ssl.create_default_context(cafile=self.file)
        if shown is not None:
            context.load_cert_chain(*shown)
        return context
