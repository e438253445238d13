#!/usr/bin/env bash
# Everything that a GPU is needed for, in one go and under ten minutes: a 7B-shaped model widened from the demo model
# (nothing is downloaded) while the GPU tests run, and then the table of arms under a memory cap.
#
#   bash benchmarks/gpu.sh [--model DIR] [--minutes N] [--only tests|kernels|table] [--out DIR] [--dry-run] [OPTIONS OF benchmarks/gpu.py]
#
# --model DIR    where the model is built, or found built; if not given, in memory where there is room for it three times
#                over, else on disk, and removed afterwards
# --minutes N    for all of it (default: 9.5); what there is no time for is left out of the table
# --only PART    the tests, the kernels or the table alone, which then have all the time
# --out DIR      where results are written (default: assets/results; a dry run: results)
# --dry-run      on the CPU, with a small model: everything but the kernels; three minutes, its figures mean nothing
#
# Writes GPU-DATE.json and .md, anew after every arm, gpu-tests.txt as tests end, and gpu-kernels.json, gpu-restoring.json
# and gpu-kernels.txt, linears of few bits beside their bytes and what restores weights beside the link: cut short, it
# leaves what there is.
# Tests that fail do not keep the table from being made. Needs 16 GB of disk or of further memory, and 16 GB of free
# memory, and no network where the active virtual environment, or the python3 at hand, has a torch that sees the
# GPU. Not yet run on a GPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

dry='' model='' minutes=9.5 only='' out='' options=()
while (($#)); do
    case $1 in
        --dry-run) dry=1 options+=(--dry-run) ;;
        --model) model=${2:?--model needs a folder} && shift ;;
        --minutes) minutes=${2:?--minutes needs a number} && shift ;;
        --only) only=${2:?--only needs tests, kernels or table} && shift ;;
        --out) out=${2:?--out needs a folder} && shift ;;
        *) options+=("$1") ;;
    esac
    shift
done
case $only in '' | tests | kernels | table) ;; *) fail "--only is tests, kernels or table, not $only." ;; esac

# A machine with a GPU often has an environment of its own that nobody has activated, and no network to make another.
if [[ -z ${VIRTUAL_ENV:-} ]]; then
    found=$(python3 -c 'import sys, torch; print(sys.prefix if torch.cuda.is_available() else "")' 2>/dev/null) || found=''
    if [[ $found && -x $found/bin/python ]]; then export VIRTUAL_ENV=$found; fi
fi
# An active environment needs no linters for this; one of our own is made for development.
use_environment "$([[ -n ${VIRTUAL_ENV:-} ]] && echo run || echo dev)"
has() { "$PYTHON_BIN" -c "import importlib.util as i, sys; sys.exit(i.find_spec('$1') is None)"; }

# An arm reads the whole model when it starts: from memory that takes seconds.
room_in_memory() {
    local free available
    free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
    available=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null)
    ((${free:-0} >= 17 && ${available:-0} >= 48))
}
scratch=$(mktemp -d)
if [[ -z $model && -z $dry ]] && room_in_memory; then built=$(mktemp -d -p /dev/shm); else built=$scratch; fi
trap 'rm -rf "$scratch" "$built"' EXIT
model=${model:-$built/model}
out=${out:-$ROOT/$([[ $dry ]] && echo results || echo assets/results)}
mkdir -p "$out"
size=15GB layers=28
if [[ $dry ]]; then
    size=60MB layers=8
    options=(--cap 48MiB --rounds 1 --prompts 1 --tokens 12 --plain-tokens 4 ${options[@]+"${options[@]}"})
fi

started=$SECONDS builder='' failed=''
build_model() {
    "$PYTHON_BIN" "$ROOT/benchmarks/widen.py" --source "$ROOT/assets/demo" --out "$model" --size "$size" --layers "$layers"
}
run_tests() {
    local workers=() seconds
    if has xdist; then workers=(-n 4); fi
    # The slowest part to go wrong: past a third of the time the table is worth more.
    seconds=$("$PYTHON_BIN" -c "print(int($minutes * 60 * $([[ $only ]] && echo 0.95 || echo 0.33)))")
    cd "$ROOT"
    timeout --signal=INT --kill-after=15 "$seconds" "$PYTHON_BIN" -m pytest -v -m gpu tests/gpu -p no:cacheprovider \
        ${workers[@]+"${workers[@]}"} >"$out/gpu-tests.txt" 2>&1
}
run_kernels() {
    local schemes=hqq4,none,hqq3 options=(--hidden 5120 --layers 6 --rows 1,6,8)
    if has gemlite; then schemes=hqq4,none,hqq3,hqq4@gemlite; fi
    local blocks=()
    if [[ $dry ]]; then
        schemes=hqq4,none options=(--hidden 256 --layers 2 --rows 1,6 --rounds 2) blocks=(--mib 1 --blocks 2 --rounds 2)
    fi
    local limit=(timeout --signal=INT --kill-after=15)
    "${limit[@]}" 90 "$PYTHON_BIN" "$ROOT/benchmarks/kernels.py" --schemes "$schemes" "${options[@]}" \
        --out "$out/gpu-kernels.json" >"$out/gpu-kernels.txt" 2>&1 || return 1
    "${limit[@]}" 60 "$PYTHON_BIN" "$ROOT/benchmarks/restoring.py" ${blocks[@]+"${blocks[@]}"} \
        --out "$out/gpu-restoring.json" >>"$out/gpu-kernels.txt" 2>&1
}
if [[ ($only == table || ! $only) && ! -f $model/config.json ]]; then
    say "1/4 a model of $size, $layers layers, beside the tests"
    build_model >"$scratch/widen.log" 2>&1 &
    builder=$!
fi
if [[ $only == tests || ! $only ]]; then
    say "2/4 the GPU tests"
    if has pytest; then
        (run_tests) || failed=1
        grep -E "^(FAILED|ERROR|E  |=+ .* in )" "$out/gpu-tests.txt" | tail -40 || true
        if [[ $failed ]]; then say "GPU tests failed, or took too long; all that they said is in $out/gpu-tests.txt"; fi
    else
        say "pytest is not installed in $VIRTUAL_ENV: no GPU tests"
    fi
fi
if [[ $only == kernels || ! $only ]]; then
    say "3/4 linears of few bits, and restored weights"
    (run_kernels) || failed=1
    tail -20 "$out/gpu-kernels.txt"
fi
if [[ $builder ]]; then
    wait "$builder" || { cat "$scratch/widen.log" >&2 && fail "the model could not be built."; }
fi
if [[ $only == table || ! $only ]]; then
    say "4/4 the table ($((SECONDS - started)) s so far)"
    left=$("$PYTHON_BIN" -c "print($minutes - $((SECONDS - started)) / 60)")
    "$PYTHON_BIN" "$ROOT/benchmarks/gpu.py" --model "$model" --minutes "$left" --out "$out" ${options[@]+"${options[@]}"} ||
        failed=1
fi
say "done in $((SECONDS - started)) s"
if [[ $failed ]]; then fail "some of it failed; see above."; fi
