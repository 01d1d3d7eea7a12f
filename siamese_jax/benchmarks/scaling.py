"""Cost against size: batch, image size, number of classes, references; one of them at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from siamese_jax.benchmarks.measure import Row, Side
from siamese_jax.benchmarks.recognition import References, unit_vectors
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.training import sampling

# Values of each sweep, and of its smoke.
_SWEEPS = {
    ("koch2015", "objective.batch"): ((8, 16, 32, 64), (4, 16)),
    ("koch2015", "data.image_size"): (((65, 65), (85, 85), (105, 105)), ((52, 52),)),
    ("quickstart", "objective.episodes"): ((1, 2, 4, 8), (1, 2)),
    ("quickstart", "data.image_size"): (((28, 28), (56, 56), (84, 84), (105, 105)), ((20, 20),)),
}


def run_scaling(plan: Plan) -> list[Row]:
    """Training steps by batch and image size, sampling by classes, comparison by references."""
    rows = []
    for (name, field), (full, tiny) in _SWEEPS.items():
        product = plan.product()
        sides = [product]
        for value in tiny if plan.smoke else full:
            work = Workload(plan.config(name, {field: value}))
            shown = f"{value[0]} x {value[1]}" if isinstance(value, tuple) else value
            sides.append(
                Side(
                    f"{field} {shown}",
                    work.training_call(),
                    work.pairs,
                    "pairs",
                    work.operations(),
                )
            )
        group = f"{name} by {field}, input and step, {plan.dtype}"
        rows += plan.compare(group, sides, product=product.name)
    return rows + _classes(plan) + _references(plan)


def _classes(plan: Plan) -> list[Row]:
    """Drawing the pairs and the episodes of a step from sets of more and more classes."""
    sides = []
    for count in (100, 1_000) if plan.smoke else (100, 1_000, 10_000, 100_000):
        index = even_index(count, 20, 20)
        draws = {
            "128 pairs": functools.partial(sampling.sample_pairs, batch=128),
            "4 episodes of 20": functools.partial(
                sampling.sample_episodes, episodes=4, n_way=20, max_alphabet=20
            ),
        }
        for name, draw in draws.items():
            call = functools.partial(jax.jit(draw), jax.random.key(plan.seed), index)
            sides.append(Side(f"{name}, {count:,} classes", call, 1, "batches"))
    return plan.compare("drawing a batch by number of classes", sides)


def _references(plan: Plan) -> list[Row]:
    """One query against more and more references."""
    net = Workload(plan.config("quickstart")).network()
    width = net.embed(np.zeros((1, *net.image_shape), np.uint8)).shape[1]
    query = unit_vectors(1, width, plan.seed + 1)
    sides = []
    for count in (10, 100) if plan.smoke else (1_000, 10_000, 100_000):
        references = References(net, unit_vectors(count, width, plan.seed))
        call = functools.partial(references.identify, query)
        sides.append(Side(f"{count:,} references", call, 1, "queries"))
    return plan.compare("identifying by number of references, comparison", sides)


def even_index(classes: int, per_alphabet: int, images: int) -> sampling.SetIndex:
    """The index of a set of equal alphabets and classes.

    Args:
        classes: number of classes, a multiple of `per_alphabet`.
        per_alphabet: classes an alphabet.
        images: images a class.
    """
    alphabets = classes // per_alphabet
    return sampling.SetIndex(
        jnp.arange(classes, dtype=jnp.int32) * images,
        jnp.full((classes,), images, jnp.int32),
        jnp.arange(alphabets, dtype=jnp.int32) * per_alphabet,
        jnp.full((alphabets,), per_alphabet, jnp.int32),
        jnp.repeat(jnp.arange(alphabets, dtype=jnp.int32), per_alphabet),
    )
