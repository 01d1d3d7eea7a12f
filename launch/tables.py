"""Renders the tables of README.md and docs/ from the records in results/.

    python launch/tables.py            # prints every table
    python launch/tables.py --check    # exit code 1 if a page differs from the records
    python launch/tables.py --write    # rewrites the tables in the pages

The tables, with their rows, records and commands, are listed in results/tables.toml.
"""

from absl import flags

from siamese_jax import cli, files

_RESULTS = flags.DEFINE_string("results", str(cli.ROOT / "results"), "Folder of the records.")
_PAGES = flags.DEFINE_list("pages", None, "Pages to render; README.md and docs/*.md by default.")
_WRITE = flags.DEFINE_bool("write", False, "Rewrite the tables in the pages.")
_CHECK = flags.DEFINE_bool("check", False, "Only say which pages differ from the records.")


def main(argv):
    del argv
    from siamese_jax.experiments import tables

    if not (_WRITE.value or _CHECK.value):
        for name, table in tables.read_tables(_RESULTS.value).items():
            print(f"{name}\n\n{tables.render(table, _RESULTS.value)}")
        return 0
    pages = _PAGES.value or [cli.ROOT / "README.md", *sorted((cli.ROOT / "docs").glob("*.md"))]
    changed = tables.update_pages(pages, _RESULTS.value, whole=not _PAGES.value)
    for page, text in changed.items():
        if _WRITE.value:
            files.replace_text(page, text)
        print(f"{page}: {'rewritten' if _WRITE.value else 'differs from the records'}")
    return 1 if changed and not _WRITE.value else 0


if __name__ == "__main__":
    cli.run(main)
