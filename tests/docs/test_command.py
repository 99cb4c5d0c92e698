"""`iii-state docs`: Markdown in a pipe, laid out on a terminal, and the nearest page where there is none of that name."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from iii_state.cli import main
from iii_state.cli.docs import first_line, laid_out, pages, without_links

COMMAND = [sys.executable, "-m", "iii_state", "docs"]


def in_pipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["docs", *arguments])


def on_terminal(*arguments: str, **variables: str) -> str:
    """What is printed on a terminal of 90 columns, with a pager that stops nowhere."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "LESS"}
    environment = {**inherited, "TERM": "xterm", "LANG": "C.UTF-8", "COLUMNS": "90", "PAGER": "cat", **variables}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the terminal's other side is gone
            break
        if not more:
            break
        printed += more
    os.close(ours)
    assert process.wait(60) == 0
    return printed.decode()


@pytest.mark.parametrize("page", pages())
def test_in_a_pipe_a_page_is_printed_as_it_is(page: str) -> None:
    shown = in_pipe(page)
    assert (shown.exit_code, shown.stdout_bytes.decode(), shown.stderr) == (0, pages()[page], "")


def test_in_a_pipe_it_is_utf_8_whatever_the_locale() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "performance"], capture_output=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, pages()["performance"], b"")


def test_without_a_name_it_is_the_index() -> None:
    assert in_pipe().stdout == pages()["index"]


def test_a_page_may_be_named_as_its_file_is() -> None:
    assert in_pipe("errors.md").stdout == pages()["errors"]


def test_the_list_names_each_page_with_its_first_line() -> None:
    expected = [f"{name}\t{first_line(page)}" for name, page in pages().items()]
    assert expected[0].startswith("index\t")
    assert in_pipe("--list").stdout.splitlines() == expected
    shown = click.unstyle(on_terminal("--list", COLUMNS="80"))
    assert all(len(line) <= 80 for line in shown.splitlines())
    for line in expected:
        assert " ".join(line.split()) in " ".join(shown.split())


@pytest.mark.parametrize(("typed", "meant"), [("functoins", "functions"), ("kv", "adapter-kv"), ("Errors", "errors")])
def test_of_a_page_that_is_not_there_the_nearest_is_named(typed: str, meant: str) -> None:
    refused = in_pipe(typed)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"did you mean {meant}?" in refused.stderr


@pytest.mark.parametrize("typed", ["zzz", "", "../../pyproject"])
def test_where_no_page_is_near_all_are_named(typed: str) -> None:
    refused = in_pipe(typed)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "there are: index, " in refused.stderr


def test_a_page_beside_list_is_wrong_usage() -> None:
    refused = in_pipe("--list", "errors")
    assert refused.exit_code == 2
    assert "without PAGE" in refused.stderr


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize("page", pages())
def test_on_a_terminal_a_page_is_laid_out_and_fits(page: str, columns: int) -> None:
    shown = laid_out(pages()[page], Console(file=StringIO(), color_system=None), columns)
    lines = shown.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert not any(line.startswith(("#", "```", "<!--", "|--")) for line in lines)
    assert ".md)" not in shown


def test_on_a_terminal_a_page_comes_from_the_pager() -> None:
    assert (
        on_terminal("errors", NO_COLOR="1").replace("\r\n", "\n").rstrip()
        == laid_out(pages()["errors"], Console(file=StringIO(), color_system=None), 90).rstrip()
    )


def test_a_terminal_without_a_pager_shows_the_page_all_the_same() -> None:
    assert "Every code" in on_terminal("errors", PAGER="no-such-pager")


def test_less_is_told_to_leave_colours_and_short_pages_alone(tmp_path: Path) -> None:
    less = tmp_path / "less"
    less.write_text('#!/bin/sh\necho "LESS=$LESS"\ncat\n')
    less.chmod(0o755)
    shown = on_terminal("glossary", PAGER=str(less))
    assert "LESS=-FRX" in shown
    assert "\x1b[1m" in shown


def test_pictures_are_left_out_on_a_terminal() -> None:
    assert without_links("One.\n\n![A screen](screen.png)\n\nTwo.\n") == "One.\n\nTwo.\n"


def test_links_become_what_is_to_be_typed() -> None:
    text = "See [Errors](errors.md#ops), [errors](errors.md), [below](#here), [KaC](https://example.org).\n```sh\n[a](b.md)\n```\n"
    assert without_links(text) == (
        "See Errors (`iii-state docs errors`), **errors**, **below**, [KaC](https://example.org).\n```sh\n[a](b.md)\n```\n"
    )
