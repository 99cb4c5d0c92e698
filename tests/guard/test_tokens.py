"""Tokens: made, hashed, read from files, found, and never quoted."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
import yaml

from iii_state.errors import ConfigError
from iii_state.guard.tokens import Tokens, checked, hashed, make, plain, read_token, read_tokens
from iii_state.rights import Identity, Rights


def test_tokens_that_are_made_differ_and_can_be_sent() -> None:
    made = {make() for _ in range(100)}
    assert len(made) == 100
    for token in made:
        assert checked("here", token) == token


def test_a_token_is_found_by_its_hash_alone() -> None:
    old, new, other = make(), make(), make()
    known = Tokens([Identity("ci", None, hashed(old)), Identity("ci", None, hashed(new)), Identity("web", Rights(), hashed(other))])
    assert [known.find(token) for token in (old, new)] == [Identity("ci", None, hashed(old)), Identity("ci", None, hashed(new))]
    assert known.find(other) == Identity("web", Rights(), hashed(other))
    for wrong in ("", make(), old[:-1], old + "x", old.upper(), hashed(old), "ci", "\udcff", "\x00"):
        assert known.find(wrong) is None


def test_a_certificate_is_found_by_its_name_and_no_token_passes_for_one() -> None:
    known = Tokens([Identity("web", None, "certificate:client.example.com")])
    assert known.find_certificate(["x", "client.example.com"]) == Identity("web", None, "certificate:client.example.com")
    assert known.find_certificate([]) is None
    assert known.find("client.example.com") is None
    assert known.find("certificate:client.example.com") is None


def test_a_hash_does_not_pass_for_the_name_of_a_certificate() -> None:
    token = make()
    assert Tokens([plain(token)]).find_certificate([hashed(token), token]) is None


def test_a_file_holds_names_hashes_and_rights(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    rights = {"functions": ["state::*"], "register": [], "scopes": ["", "a/*"], "read_only": True, "operate": True}
    token = make()
    entries = [{"name": "ci", "hash": hashed(token), "rights": rights}, {"name": "web", "certificate": "web.example.com"}]
    file.write_text(yaml.safe_dump({"tokens": entries}))
    assert read_tokens(file) == [
        Identity("ci", Rights(("state::*",), (), ("", "a/*"), True, False, True), hashed(token)),
        Identity("web", None, "certificate:web.example.com"),
    ]


GOOD = "sha256:" + "0" * 64
SECRET = "iii_thisisaverysecrettoken"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has to be a mapping"),
        ("tokens: {}", "tokens has to be a list"),
        ("tokens: [{hash: GOOD}]", "tokens[0].name is missing"),
        ("tokens: [{name: a}]", "either a hash"),
        ("tokens: [{name: a, hash: GOOD, certificate: b}]", "either a hash"),
        ("tokens: [{name: a, hash: SECRET}]", "tokens[0].hash has to be sha256:"),
        ("tokens: [SECRET]", "tokens[0] has to be a mapping"),
        ("tokens: [{name: a, hash: GOOD}, {name: b, hash: GOOD}]", "the sha256 of b is there twice"),
        ("tokens: [{name: a, hash: GOOD, right: {}}]", "unknown key tokens[0].right; did you mean tokens[0].rights?"),
        ("tokens: [{name: a, hash: GOOD, rights: {scope: []}}]", "did you mean tokens[0].rights.scopes?"),
        ("tokens: [{name: a, hash: GOOD, rights: {scopes: users}}]", "rights.scopes has to be a list"),
        ("tokens: [SECRET: {", "is no YAML (line 1)"),
        ("token: []", "did you mean tokens?"),
        ("{}", "a list `tokens`"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_quotes_no_token(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(text.replace("GOOD", GOOD).replace("SECRET", SECRET))
    with pytest.raises(ConfigError) as refused:
        read_tokens(file)
    assert says in str(refused.value)
    assert str(file) in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("token", ["short", "", "with a space in it, and a comma", "a" * 20 + "\r\nX: y", "ü" * 20, "a" * 5000])
def test_a_plain_token_that_cannot_be_used_is_an_error_that_does_not_quote_it(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(ConfigError) as refused:
        read_token(file)
    assert not token or token not in str(refused.value)
    assert "iii-state token" in str(refused.value)


def test_white_space_around_a_token_in_a_file_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = make()
    file.write_text(f"\n{token}\r\n")
    assert read_token(file) == token


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for read in (read_token, read_tokens):
        with pytest.raises(ConfigError, match=r"cannot read .*nowhere"):
            read(tmp_path / "nowhere")


def test_the_comparison_goes_through_all_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which entry it is, or none, does not show in how many are compared."""
    made = [make() for _ in range(5)]
    known = Tokens([plain(token) for token in made])
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (made[0], made[-1], make()):
        compared.clear()
        known.find(token)
        assert len(compared) == 5
