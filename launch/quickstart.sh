#!/usr/bin/env bash
# From nothing to a trained one-shot recogniser: environment, data, training, evaluation, report.
#
#   bash launch/quickstart.sh [--archives=DIR] [--workdir=DIR] [--minutes=N] [--config.FIELD=VALUE ...]
#
# --archives=DIR  folder with images_background.zip, images_evaluation.zip and all_runs.zip; without it
#                 Omniglot is downloaded, and where that fails the built-in glyphs are used
# --workdir=DIR   where the run goes, by default runs/quickstart
# --minutes=N     trains for about N minutes on this machine, however fast it is (a few at least: too few
#                 are refused with the fewest it can do); without it for 2,000 steps: 10 to 20
#                 minutes on two cores of a server
#
# Run again, it goes on where it was; a finished run is only evaluated again.
set -euo pipefail

case " $* " in *" --help "* | *" -h "*) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

archives="" workdir="$(dirname "$0")/../runs/quickstart" overrides=() minutes=()
for option in "$@"; do
    case $option in
        --archives=*) archives=$(cd "${option#*=}" 2>/dev/null && pwd) || { echo "error: no folder ${option#*=}" >&2; exit 1; } ;;
        --workdir=*) workdir=${option#*=} ;;
        --minutes=*) minutes=("$option") ;;
        --config.*=*) overrides+=("$option") ;;
        *) echo "error: unknown option $option (see --help)" >&2; exit 1 ;;
    esac
done
mkdir -p "$workdir" || { echo "error: cannot make $workdir" >&2; exit 1; }
workdir=$(cd "$workdir" && pwd)
cd "$(dirname "$0")/.."
source launch/environment.sh

say "[1/3] Environment"
environment ""
[ -z "$archives" ] || overrides=(--config.data.archives="$archives" ${overrides[@]+"${overrides[@]}"})

say "[2/3] Data and training; the run is in $workdir"
.venv/bin/python launch/train.py --config=configs/quickstart.py ${overrides[@]+"${overrides[@]}"} \
    --workdir="$workdir" ${minutes[@]+"${minutes[@]}"}

say "[3/3] Evaluation and report"
.venv/bin/python launch/evaluate.py --workdir="$workdir"
