#!/usr/bin/env bash
# Trains on a Slurm cluster: one process a node, all its accelerators; requeued when preempted.
#
#   sbatch --nodes=2 --gpus-per-node=8 --time=12:00:00 launch/slurm.sh --config=FILE --workdir=DIR ...
#
# Set on the sbatch line what your site asks for (--partition, --account, --cpus-per-task ...).
# Environment:
#   PYTHON   interpreter with siamese_jax installed (default .venv/bin/python)
# The workdir and the data folder must lie on a file system that all nodes share.
#SBATCH --job-name=siamese_jax
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -uo pipefail
case "${1:-}" in "" | -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1

# A node that is lost ends the whole step at once instead of leaving the others waiting.
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" launch/train.py "$@" --distributed &
step=$!
trap 'kill -TERM "$step" 2>/dev/null' TERM
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done
if ((code == 75)); then
    echo "preempted after saving; requeueing job ${SLURM_JOB_ID:-}"
    scontrol requeue "$SLURM_JOB_ID"
elif ((code != 0)); then
    echo "error: a process ended with code $code; submit the same command again to go on from the last checkpoint" >&2
fi
exit "$code"
