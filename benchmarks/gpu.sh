#!/usr/bin/env bash
# Everything that a GPU is needed for, in one go and under ten minutes: a 7B-shaped model widened from the demo model
# (nothing is downloaded) while the GPU tests run, and then the table of arms under a memory cap.
#
#   bash benchmarks/gpu.sh [--model DIR] [--minutes N] [--dry-run] [OPTIONS OF benchmarks/gpu.py]
#
# --model DIR    where the model is built, or found built; a folder that is removed afterwards, if not given
# --minutes N    for all of it (default: 9.5); what there is no time for is left out of the table
# --dry-run      on the CPU, with a small model: everything but the kernels; a minute, its figures mean nothing
#
# Writes assets/results/GPU-DATE.json and .md (a dry run: results/). Needs 16 GB of disk and of free memory. Runs in the
# active virtual environment if there is one. Not yet run on a GPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

dry= model= minutes=9.5 options=()
while (($#)); do
    case $1 in
        --dry-run) dry=1 options+=(--dry-run) ;;
        --model) model=${2:?--model needs a folder} && shift ;;
        --minutes) minutes=${2:?--minutes needs a number} && shift ;;
        *) options+=("$1") ;;
    esac
    shift
done

# An active environment needs no linters for this; one of our own is made for development.
use_environment "$([[ -n ${VIRTUAL_ENV:-} ]] && echo run || echo dev)"
has() { "$PYTHON_BIN" -c "import importlib.util as i, sys; sys.exit(i.find_spec('$1') is None)"; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
model=${model:-$scratch/model}
size=15GB layers=28
if [[ $dry ]]; then
    size=60MB layers=8
    options=(--cap 48MiB --rounds 1 --prompts 1 --tokens 12 --plain-tokens 4 ${options[@]+"${options[@]}"})
fi

started=$SECONDS builder= failed=
if [[ ! -f $model/config.json ]]; then
    say "1/3 a model of $size, $layers layers, beside the tests"
    "$PYTHON_BIN" "$ROOT/benchmarks/widen.py" --source "$ROOT/assets/demo" --out "$model" --size "$size" --layers "$layers" \
        >"$scratch/widen.log" 2>&1 &
    builder=$!
fi
say "2/3 the GPU tests"
if has pytest; then
    workers=()
    if has xdist; then workers=(-n 4); fi
    # The slowest part to go wrong: past a third of the time the table is worth more.
    (cd "$ROOT" && timeout "$("$PYTHON_BIN" -c "print(int($minutes * 20))")" \
        "$PYTHON_BIN" -m pytest -q -m gpu tests/gpu -p no:cacheprovider ${workers[@]+"${workers[@]}"}) || failed=1
else
    say "pytest is not installed in $VIRTUAL_ENV: no GPU tests"
fi
if [[ $builder ]]; then
    wait "$builder" || { cat "$scratch/widen.log" >&2 && fail "the model could not be built."; }
fi
say "3/3 the table ($((SECONDS - started)) s so far)"
left=$("$PYTHON_BIN" -c "print($minutes - $((SECONDS - started)) / 60)")
"$PYTHON_BIN" "$ROOT/benchmarks/gpu.py" --model "$model" --minutes "$left" ${options[@]+"${options[@]}"} || failed=1
say "done in $((SECONDS - started)) s"
if [[ $failed ]]; then fail "some of it failed; see above."; fi
