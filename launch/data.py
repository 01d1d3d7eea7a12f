"""Shows what a data set holds, and what a training run would see of it.

    python launch/data.py show my_pictures
    python launch/data.py show my_pictures --config=configs/quickstart.py --page=mine.html

The place is a folder or zip of pictures, tfds:NAME, or a built-in set such as glyphs; with a --config
it may be left out. Prints counts, sizes and duplicates. The page also has a sheet of samples and, with a
--config, the pictures after preparation and augmentation.
"""

from absl import flags
from ml_collections import config_flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config of a training run.")
_PAGE = flags.DEFINE_string("page", "look.html", "File of the page.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared sets.")


def main(argv):
    command, *places = argv[1:] or [""]
    if command != "show" or len(places) > 1:
        raise ValueError(f"expected `show` and one place at most, got {' '.join(argv[1:])!r}")
    from siamese_jax.experiments import data_look
    from siamese_jax.reporting import data_page

    shown = data_look.look(*places[:1] or [None], _CONFIG.value, _DATA_DIR.value)
    page = data_look.write(shown, _PAGE.value)
    print(cli.text_table(data_page.counts(shown.parts), data_page.COLUMNS))
    print("\n".join([*data_page.findings(shown), f"page: {page}"]))


if __name__ == "__main__":
    cli.run(main, takes_words=True)
