#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: the same command on every worker, again after a preemption.
#
#   TPU=NAME ZONE=ZONE bash launch/tpu.sh --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#
# Environment:
#   TPU, ZONE  name and zone of the slice (required)
#   FOLDER     where the project lies on each worker (default siamese_jax)
#   PYTHON     interpreter there (default .venv/bin/python)
#   RESTARTS   how often to start again after a preemption (default 10)
#
# The workdir and the data folder must lie on a file system that all workers share.
set -uo pipefail
case "${1:-}" in "" | -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
: "${TPU:?set TPU to the name of the slice (see --help)}" "${ZONE:?set ZONE to its zone (see --help)}"

printf -v arguments ' %q' "$@"
command="cd ${FOLDER:-siamese_jax} && ${PYTHON:-.venv/bin/python} launch/train.py$arguments --distributed"
code=75
for ((attempt = 0; attempt <= ${RESTARTS:-10} && code == 75; attempt++)); do
    ((attempt == 0)) || { echo "preempted after saving; starting again"; sleep 30; }
    code=0
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command" || code=$?
done
((code == 0)) || echo "error: ended with code $code; the same command goes on from the last checkpoint" >&2
exit "$code"
