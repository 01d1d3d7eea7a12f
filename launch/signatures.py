"""Writes a made-up set of signatures: people to train on, others to test on, and a list of pairs.

    python launch/signatures.py --folder=signatures

Every name is written by its owner and skilfully forged by others; docs/your-data.md goes from there to
the equal error rate.
"""

from absl import flags

from siamese_jax import cli

_FOLDER = flags.DEFINE_string("folder", None, "Folder that is made.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the whole set.", 0)
_PEOPLE = flags.DEFINE_integer("people", 60, "People to train on.", 2)
_TEST_PEOPLE = flags.DEFINE_integer("test_people", 20, "People to test on.", 2)


def main(argv):
    del argv
    from siamese_jax.data import signatures

    people = (_PEOPLE.value, _TEST_PEOPLE.value)
    pairs = signatures.write(_FOLDER.value, seed=_SEED.value, people=people)
    print(f"pictures: {pairs.parent / 'train'} and {pairs.parent / 'test'}\npairs: {pairs}")


if __name__ == "__main__":
    cli.run(main)
