"""The page of a run, drawn from saved results.

`run_page` puts the sections together, each in a `section_*.py`. `run_figures` says which figures a run
has; `curves`, `image_sheets` and `embedding_map` draw them.
"""
