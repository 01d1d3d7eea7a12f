#!/usr/bin/env bash
# Makes the environment where it is missing, checks the style and the types, and runs the tests.
#
#   bash launch/test.sh [--quick] [pytest options]
#
# --quick   leaves out the tests marked `slow`: those that train, start a process or take more than two
#           seconds
#
# Set SIAMESE_JAX_TEST_DATA to a folder with omniglot/, mnist/ and att_faces/ to run the tests on real
# data as well; without it they are skipped and counted.
set -euo pipefail

case " $* " in *" --help "* | *" -h "*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
tier=()
if [ "${1:-}" = --quick ]; then tier=(-m "not slow"); shift; fi

cd "$(dirname "$0")/.."
source launch/environment.sh

environment "[test]"
say "Checking the style ..."
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
say "Running the tests, and checking the types beside them ..."
types=$(mktemp)
trap 'rm -f "$types"' EXIT
.venv/bin/python -m mypy >"$types" 2>&1 &
checking=$!
unset PYTHONDONTWRITEBYTECODE  # the commands that tests start would each compile the package
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}  # of each worker
code=0
# A worker for each of two cores; on a larger machine give `-n 8`, say.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${tier[@]+"${tier[@]}"} "$@" || code=$?
wait "$checking" || code=1
cat "$types"
exit "$code"
