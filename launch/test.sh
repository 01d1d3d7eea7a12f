#!/usr/bin/env bash
# Makes the environment where it is missing and runs the tests: bash launch/test.sh [pytest options]
#
# Set SIAMESE_JAX_TEST_DATA to a folder with omniglot/, mnist/ and att_faces/ to run the tests on real
# data as well; without it they are skipped and counted.
set -euo pipefail

cd "$(dirname "$0")/.."
source launch/environment.sh

environment "[test]"
say "Checking the style ..."
.venv/bin/python -m ruff check .
say "Running the tests ..."
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
