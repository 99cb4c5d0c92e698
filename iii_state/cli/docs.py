"""`iii-state docs`: the pages that come with the package, laid out on a terminal, Markdown in a pipe."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from iii_state.cli.layout import columns, wrapped
from iii_state.cli.terminal import check_output, is_terminal

if TYPE_CHECKING:
    from rich.console import Console  # takes its time to be imported

INDEX = "index"
MAX_COLUMNS = 110
"""Longer lines are hard to read, however wide the terminal is."""

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]*)\]\((?:([\w-]+)\.md)?(?:#[^)]*)?\)")
"""A link to another page, or within the page; none to elsewhere."""


def pages() -> dict[str, str]:
    """The pages by name, the index first, then in the order of the alphabet."""
    found = [entry for entry in (files("iii_state") / "docs").iterdir() if entry.name.endswith(".md")]
    found.sort(key=lambda entry: (entry.name != f"{INDEX}.md", entry.name))
    return {entry.name.removesuffix(".md"): entry.read_text(encoding="utf-8") for entry in found}


def first_line(page: str) -> str:
    """What a page says it is about: the first line below its title, plain text."""
    return page.split("\n\n", 2)[1]


def nearest(page: str, names: list[str]) -> str | None:
    """The page that was probably meant."""
    holding = [name for name in names if page and page in name]
    return next(iter(holding or get_close_matches(page, names, 1, 0.4)), None)


class PageName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """The name of a page, with or without `.md`."""

    name = "page"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = list(pages())
        page = value.removesuffix(".md")
        if page in names:
            return page
        near = nearest(page.lower(), names)
        hint = f"did you mean {near}?" if near else f"there are: {', '.join(names)}"
        raise click.BadParameter(f"there is no page {value!r}; {hint}", ctx, param, "PAGE")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name, help=first_line(page)) for name, page in pages().items() if name.startswith(incomplete)]


@click.command(short_help="Show a page of the documents.")
@click.argument("page", type=PageName(), default=INDEX, metavar="[PAGE]")
@click.option("--list", "as_list", is_flag=True, help="Print the names of the pages, and what each is about.")
@click.pass_context
def docs(context: click.Context, page: str, as_list: bool) -> None:
    """Show a page of the documents that come with iii-state; without PAGE their index.

    On a terminal it is laid out, in the pager that PAGER names (less); in a pipe it is Markdown.

    \b
    iii-state docs functions
    """
    check_output()
    if not as_list:
        _show(pages()[page])
    elif context.get_parameter_source("page") is ParameterSource.DEFAULT:
        _show_names(pages())
    else:
        raise click.UsageError("--list prints all pages: give it without PAGE.")


def _show_names(found: dict[str, str]) -> None:
    width = max(map(len, found))
    for name, page in found.items():
        if is_terminal():
            about = wrapped(first_line(page), columns() - 1, " " * (width + 2)).strip()
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {about}")
        else:
            click.echo(f"{name}\t{first_line(page)}".encode())


def _show(page: str) -> None:
    if not is_terminal():
        click.echo(page.encode(), nl=False)
        return
    from rich.console import Console

    console = Console()
    os.environ.setdefault("LESS", "-FRX")  # as git does: what fits on the screen needs no key to be left
    click.echo_via_pager(laid_out(page, console, min(console.width, MAX_COLUMNS)))


def laid_out(page: str, console: Console, columns: int) -> str:
    """A page as it looks on a terminal."""
    from rich.markdown import Markdown

    console.width = columns
    with console.capture() as capture:
        console.print(Markdown(without_links(page), code_theme="ansi_dark", hyperlinks=False))
    return capture.get()


def without_links(page: str) -> str:
    """A page's text without pictures, in which a link to another page says what to type, and one within the page is its words."""

    def words(link: re.Match[str]) -> str:
        text, target = link.groups()
        return f"**{text}**" if target in (None, text) else f"{text} (`iii-state docs {target}`)"

    parts = [(_LINK.sub(words, _PICTURE.sub("", prose)), fence) for prose, fence in _parts(page)]
    return "".join(part for pair in parts for part in pair)


def _parts(page: str) -> list[tuple[str, str]]:
    """A page as pairs of prose and the example that follows it, in which nothing is a link."""
    pairs = []
    end = 0
    for fence in _FENCE.finditer(page):
        pairs.append((page[end : fence.start()], fence[0]))
        end = fence.end()
    return [*pairs, (page[end:], "")]
