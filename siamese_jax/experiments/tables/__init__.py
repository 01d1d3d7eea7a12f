"""The tables of README and docs, rendered from the records in `results/`.

`results/tables.toml` lists every table: its rows, the record that each row is read from, and the
command that made the record. A page holds a table between two markers:

    <!-- table: NAME -->
    <!-- end -->

What stands between them is rendered, never written by hand. There are four kinds of tables, one for
each kind of record: `evaluation` (`launch/evaluate.py --record`), `ablation` (`launch/ablate.py
--record`), `benchmark` (`launch/benchmark.py --record`) and `faults` (`python -m tests.faults`).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence

from siamese_jax.experiments.tables.beneath import beneath, wrap
from siamese_jax.experiments.tables.kinds import KINDS, NOT_RUN
from siamese_jax.experiments.tables.listing import read_record, read_tables, record_names

__all__ = [
    "NOT_RUN",
    "read_record",
    "read_tables",
    "record_names",
    "render",
    "update",
    "update_pages",
    "wrap",
]

_MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def render(table: Mapping, results: str | pathlib.Path) -> str:
    """A table as Markdown, with what it was measured by beneath.

    Args:
        table: an entry of `read_tables`.
        results: folder of the records.

    Raises:
        ValueError: an unknown kind, or what `measure` raises.
    """
    name = table.get("kind", "evaluation")
    if name not in KINDS:
        raise ValueError(f"table {table['name']}: kind must be one of {', '.join(KINDS)}")
    kind = KINDS[name]
    header, rows = kind.cells(table, results)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join([*lines, "", *beneath(table, results, kind.schema)]) + "\n"


def update(text: str, tables: Mapping[str, Mapping], results: str | pathlib.Path) -> str:
    """A page with every table between markers rendered anew.

    Raises:
        ValueError: a marker names no table, or has no end.
    """

    def rendered(match: re.Match) -> str:
        begin, name, _, end = match.groups()
        if name not in tables:
            raise ValueError(f"there is no table {name!r} in tables.toml: fix the marker")
        return f"{begin}{render(tables[name], results)}{end}"

    if text.count("<!-- table: ") != len(_MARKED.findall(text)):
        raise ValueError("a marker <!-- table: NAME --> has no <!-- end --> of its own")
    return _MARKED.sub(rendered, text)


def update_pages(
    pages: Sequence[str | pathlib.Path], results: str | pathlib.Path, *, whole: bool = True
) -> dict[pathlib.Path, str]:
    """The new text of every page whose tables are not what the records say.

    Args:
        pages: paths of the pages.
        results: folder of the records.
        whole: whether these are all pages, on which every table of the list must stand.

    Raises:
        ValueError: see `update`; or a table of the list stands on no page.
    """
    tables = read_tables(results)
    changed: dict[pathlib.Path, str] = {}
    used: set[str] = set()
    for page in map(pathlib.Path, pages):
        text = page.read_text(encoding="utf-8")
        used |= {name for _, name, _, _ in _MARKED.findall(text)}
        new = update(text, tables, results)
        if new != text:
            changed[page] = new
    unused = [name for name in tables if name not in used]
    if whole and unused:
        raise ValueError(f"tables.toml has tables that stand on no page: {', '.join(unused)}")
    return changed
