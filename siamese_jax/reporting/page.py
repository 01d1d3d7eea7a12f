"""A plain HTML page that needs no other file: its frame, its style, tables and figures."""

from __future__ import annotations

import base64
import functools
import html
import pathlib
from collections.abc import Iterable, Sequence

_STYLE = pathlib.Path(__file__).with_name("style.css")


class Html(str):
    """Text that is HTML already and is not escaped again."""


def escape(value: str) -> str:
    """The text as HTML shows it; `Html` passes as it is."""
    return value if isinstance(value, Html) else html.escape(value)


@functools.cache
def style() -> str:
    """The stylesheet of every page of the package."""
    return _STYLE.read_text(encoding="utf-8")


def filled(template: pathlib.Path) -> str:
    """The text of a page's template with the stylesheet in place of `{{style}}`."""
    return template.read_text(encoding="utf-8").replace("{{style}}", style())


def document(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
        title: of the window.
        head: HTML above the list of sections.
        sections: (name in links, heading, HTML) of each.
    """
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    nav = f'<nav aria-label="Sections">{links}</nav>' if len(sections) > 1 else ""
    body = "\n".join(
        f'<section id="{key}">\n<h2>{escape(name)}</h2>\n{content}\n</section>'
        for key, name, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style()}</style>\n</head>\n<body>\n"
        f"<header>\n{head}\n</header>\n{nav}\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def figure(content: str, caption: str) -> str:
    """HTML as a figure with a caption."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def chart(broad: str, slim: str) -> str:
    """A chart in two forms, of which the window's width chooses one; each an `<svg>`."""
    return f"<div class=broad>{broad}</div><div class=slim>{slim}</div>"


def table(
    head: Sequence[str],
    rows: Iterable[str | tuple[bool, Sequence[str]]],
    numbers: Iterable[int] = (),
) -> str:
    """A table.

    Args:
        head: of the columns.
        rows: (whether it is stressed, cells), or the heading of the rows that follow.
        numbers: the columns that hold figures.
    """
    in_figures = set(numbers)

    def cells(values: Sequence[str], tag: str) -> str:
        scope = " scope=col" if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{' class=n' if i in in_figures else ''}>{escape(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    head = [name.replace(" %", "\N{NO-BREAK SPACE}%") for name in head]
    lines = [
        f"<tr class=group><th colspan={len(head)}><span>{escape(row)}</span></th></tr>"
        if isinstance(row, str)
        else f"<tr{' class=stressed' if row[0] else ''}>{cells(row[1], 'td')}</tr>"
        for row in rows
    ]
    return (
        f"<div class=wide tabindex=0><table><thead><tr>{cells(head, 'th')}</tr></thead>\n<tbody>"
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, one a line."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in pairs)}</dl>"


def note(text: str) -> str:
    """A paragraph in small type."""
    return f"<p class=note>{escape(text)}</p>"


def notice(text: str) -> str:
    """A paragraph that stands out: what the reader must know first."""
    return f"<p class=notice>{escape(text)}</p>"


def folded(summary: str, content: str) -> str:
    """HTML that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def data_uri(file: bytes, kind: str) -> str:
    """A picture's file as a data URI; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def bar(share: float, stressed: bool) -> Html:
    """A share of 0 to 1 as a bar."""
    return Html(
        f'<span class="bar{" stressed" if stressed else ""}">'
        f'<i style="width:{100 * share:.1f}%"></i></span>'
    )
