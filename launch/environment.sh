# shellcheck shell=bash
# Sourced by the other scripts: makes .venv in the project's folder once and puts it to use.
#
#   environment EXTRAS     e.g. environment "[test]"
#
# PYTHON names the interpreter to build it from; without it the first of python3.13, 3.12, 3.11 and
# python3 that is new enough is taken. Every failure is one line and a non-zero exit.

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# uv installs in a third of pip's time. Where it cannot (it does not read pip's settings), pip does.
install() {
    local pip=(.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off)
    local uv=(.venv/bin/python -m uv pip install --compile-bytecode --python .venv/bin/python)
    if "${pip[@]}" uv && "${uv[@]}" -e "$1"; then return; fi
    "${pip[@]}" -e "$1"
}

environment() {
    local extras=$1 python="" candidate mark log cause
    mark=.venv/installed${extras//[^a-z]/-}
    if [ ! -x .venv/bin/python ] || ! new_enough .venv/bin/python; then
        for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
            if new_enough "$candidate"; then python=$candidate; break; fi
        done
        [ -n "$python" ] || fail "Python 3.11 or newer (with venv) is needed; found none. Install it, or set PYTHON=/path/to/python3"
        say "Making the environment .venv with $("$python" --version) ..."
        "$python" -m venv --clear .venv || fail "could not make .venv here (is the disk full or read-only?)"
    fi
    if [ "$mark" -nt setup.py ]; then return; fi
    say "Installing siamese_jax$extras and what it needs (about 1.5 GB; some minutes on a slow network) ..."
    log=$(mktemp)
    if ! install ".$extras" >"$log" 2>&1; then
        cause=$(grep -iEo -m 1 'no space left on device|no matching distribution found for .*|permission denied' "$log" || true)
        fail "the installation failed (${cause:-see $log}); it needs a network that reaches PyPI, and 2 GB of disk"
    fi
    rm -f "$log"
    touch "$mark"
}
