"""A plain HTML page that needs no other file: its frame, tables and figures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from siamese_jax.reporting import drawing


class Html(str):
    """Text that is HTML already and is not escaped again."""


def escape(value: str) -> str:
    """The text as HTML shows it; `Html` passes as it is."""
    return value if isinstance(value, Html) else html.escape(value)


def document(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
        title: of the window.
        head: HTML above the list of sections.
        sections: (name in links, heading, HTML) of each.
    """
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "\n".join(
        f'<section id="{key}">\n<h2>{escape(name)}</h2>\n{content}\n</section>'
        for key, name, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<header>\n{head}\n</header>\n<nav>{links}</nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def figure_of(figure: Figure, description: str, caption: str) -> str:
    """A figure as an `<svg>`, with a description for those who cannot see it and a caption."""
    svg = drawing.to_svg(figure, description)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


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

    def cells(values: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in in_figures else ''}>{escape(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    lines = [
        f"<tr class=group><th colspan={len(head)}>{escape(row)}</th></tr>"
        if isinstance(row, str)
        else f"<tr{' class=stressed' if row[0] else ''}>{cells(row[1], 'td')}</tr>"
        for row in rows
    ]
    return (
        f"<div class=wide><table><thead><tr>{cells(head, 'th')}</tr></thead>\n<tbody>"
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


def bar(share: float, stressed: bool) -> Html:
    """A share of 0 to 1 as a bar."""
    return Html(
        f'<span class="bar{" stressed" if stressed else ""}">'
        f'<i style="width:{100 * share:.1f}%"></i></span>'
    )


_CSS = """
:root { color-scheme: light; --text: #1c1c1c; --muted: #5f6368; --rule: #e2e2e2; --accent: #0b5fa5; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 63rem; background: #fff;
  color: var(--text); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; font-variant-numeric: tabular-nums; }
svg text { font-family: inherit !important; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3.2rem 0 .8rem; padding-top: .9rem;
  border-top: 2px solid var(--text); }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
p { max-width: 46rem; margin: .6rem 0; }
.lead { font-size: 1.1rem; }
.notice { max-width: none; border-left: 4px solid #b3261e; background: #fdf3f2;
  padding: .7rem 1rem; }
.note, figcaption { color: var(--muted); font-size: .9rem; line-height: 1.45; max-width: 50rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin-top: 1.6rem; font-size: .9rem; }
a { color: var(--accent); text-underline-offset: .2em; }
.tiles { list-style: none; display: grid; gap: 1.5rem; padding: 0; margin: 1.6rem 0;
  grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); }
.tiles li { border-top: 2px solid var(--accent); padding-top: .5rem; display: grid;
  align-content: start; }
.tiles b { font-size: 2rem; line-height: 1.25; font-weight: 600; }
.tiles span { font-size: .85rem; color: var(--muted); }
.tiles span:first-child { color: var(--text); font-size: .95rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.4rem; font-size: .9rem;
  margin: 1rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
dd span { display: inline-block; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35; }
th, td { text-align: left; padding: .34rem 1rem .34rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; border-bottom-color: var(--text); vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.group th { padding-top: 1.1rem; border-bottom-color: var(--rule); color: var(--muted);
  font-weight: 400; }
.stressed td { font-weight: 600; }
.bar { display: inline-block; width: 7rem; height: .55rem; background: #f1f1f1; }
.bar i { display: block; height: 100%; background: #b5b5b5; }
.bar.stressed i { background: var(--accent); }
figure { margin: 1rem 0 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: .7rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: .9rem; }
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""
