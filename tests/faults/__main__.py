"""Does faults to the project and counts what it did not withstand.

python -m tests.faults --cases=2000 --seed=0 --record=results/reliability.json
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import random
import sys
import tempfile
import threading
import time
import warnings

from absl import logging as absl_logging

from siamese_jax import files
from siamese_jax.runs import workdir
from tests.faults import cases
from tests.faults.bench import Bench


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="only kinds whose name has this in it")
    parser.add_argument("--record", type=pathlib.Path, help="file for the counts")
    given = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("siamese_jax", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = lambda error: None  # of Orbax, whose failed saving is raised as well
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    kinds = {k: v for k, v in cases.KINDS.items() if given.kind is None or given.kind in k}
    whole = sum(share for _, share in kinds.values())
    start, rows, failures = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as place:
        bench = Bench.make(pathlib.Path(place))
        for kind, (case, share) in kinds.items():
            count = max(1, round(given.cases * share / whole))
            failed = 0
            for number in range(count):
                try:
                    failure = case(bench, random.Random(f"{given.seed} {kind} {number}"))
                except Exception as error:
                    failure = f"the case itself: {type(error).__name__}: {error}"
                if failure:
                    failed += 1
                    failures.append(f"{kind}, case {number}: {failure}")
                    print(failures[-1], file=sys.stderr, flush=True)
            rows.append({"kind": kind, "cases": count, "failed": failed})
            spent = time.monotonic() - start
            print(f"{kind}: {failed} of {count} failed; {spent:.0f} s", flush=True)
    if given.record:
        record = {
            "settings": {"seed": given.seed, "cases": given.cases},
            "seconds": round(time.monotonic() - start),
            "evaluation": workdir.without_places({}, [workdir.provenance()])[1][0],
            "kinds": rows,
            "failures": failures,
        }
        files.replace_json(given.record, record)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
