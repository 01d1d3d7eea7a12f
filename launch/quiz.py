"""A quiz: people on the very trials that a network is tested on.

    python launch/quiz.py --archives=DIR --out=quiz.html
    python launch/quiz.py --archives=DIR --trials=within --num_runs=5 --out=quiz.html
    python launch/quiz.py --read answers/*.json

The page is one file: open it in any browser, also on a phone and without a network. At its end it gives
a JSON file to keep; --read makes a table of several of them beside the network.
"""

import pathlib

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_ARCHIVES = flags.DEFINE_string("archives", None, "Folder with Omniglot's archives.")
_OUT = flags.DEFINE_string("out", "quiz.html", "File of the page.")
_TRIALS = flags.DEFINE_enum("trials", "official", ["official", "within"], "Which trials.")
_NUM_RUNS = flags.DEFINE_integer("num_runs", 20, "Runs of 20 trials.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the trials within alphabets.")
_NETWORK = flags.DEFINE_string(
    "network", "omniglot", "A network of the package, or a run's workdir."
)
_READ = flags.DEFINE_bool("read", False, "Print a table of the files that follow.")


def main(argv):
    from siamese_jax.experiments import quiz  # jax is slow to import: --help should not wait

    if _READ.value:
        if len(argv) < 2:
            raise ValueError("--read needs the players' files: --read answers/*.json")
        print(quiz.format_players([quiz.read_player(path) for path in argv[1:]]))
        return
    if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no flag; answers are read with --read FILE...")
    if not pathlib.Path(_OUT.value).parent.is_dir():
        raise ValueError(f"{pathlib.Path(_OUT.value).parent}: no such folder for a page")
    trials, alphabets = quiz.draw_trials(
        _ARCHIVES.value, _TRIALS.value, _NUM_RUNS.value, _SEED.value
    )
    answered = quiz.answer(siamese_jax.load(_NETWORK.value), trials, alphabets)
    quiz.write_page(answered, _OUT.value)
    print(
        f"{_OUT.value}: {trials.num_trials} {trials.name} trials, hash {trials.hash}; "
        f"{answered.network} answers {100 * answered.correct.mean():.2f} % of them"
    )


if __name__ == "__main__":
    cli.run(main, takes_words=True)
