#!/usr/bin/env bash
# Trains with several processes on this machine, each on its own devices.
#
#   bash launch/local.sh PROCESSES --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
# Environment: PORT, where the processes meet (default 12355); RESTARTS, how often to start again after
# a preemption (default 0).
# When a process is lost the others are stopped; the same command then goes on from the last checkpoint.
set -uo pipefail
case "${1:-}" in
    "" | -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *[!0-9]* | 0) echo "error: PROCESSES must be a number above 0, got '$1' (see --help)" >&2; exit 1 ;;
esac
count=$1 port=${PORT:-12355} pids=() stopped=0 && shift
train="$(dirname "$0")/train.py"
python=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
trap 'interrupted=1 stopped=1; kill -TERM "${pids[@]}" 2>/dev/null' TERM INT

for ((attempt = 0; attempt <= ${RESTARTS:-0}; attempt++)); do
    pids=()
    for ((i = 0; i < count; i++)); do
        "$python" "$train" "$@" --coordinator="localhost:$port" --num_processes="$count" --process_id="$i" &
        pids+=($!)
    done
    code=0 left=$count
    while ((left > 0)); do
        interrupted=0 ended=0
        wait -n || ended=$?
        ((interrupted)) && continue # the signal ended the wait, not a process
        left=$((left - 1))
        if ((ended != 0 && ended != 75 && ended != 130)); then
            echo "error: a process ended with code $ended; stopping the others. The same command goes on from the last checkpoint." >&2
            kill -KILL "${pids[@]}" 2>/dev/null
            exit "$ended"
        fi
        ((ended == 0)) || code=$ended
    done
    ((code == 75 && !stopped)) || break # preempted, but not by a signal to this script
done
exit "$code"
