#!/usr/bin/env bash
# Trains an EAGLE head: bash train.sh [OPTIONS]. Without options: one for the demo model, from its own answers, in a few
# minutes. The first start installs what is needed; the same command goes on where it was stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"

usage() {
    cat >&2 <<'USAGE'
usage: bash train.sh [--target MODEL] [--data SOURCE] [--out DIR] [--architecture eagle|eagle3] [OPTIONS]

  bash train.sh                                   a head for the demo model, to assets/demo-eagle
  bash train.sh --architecture eagle3             an EAGLE-3 head for it, to assets/demo-eagle3
  bash train.sh --target Qwen/Qwen2.5-7B-Instruct --data Aeala/ShareGPT_Vicuna_unfiltered --out qwen-head
  bash train.sh --target MODEL --data chats.jsonl --out DIR --device-memory 8GiB

  --target MODEL        hub id or folder (assets/demo)
  --data SOURCE         conversations: ShareGPT .json, messages .jsonl, plain .txt, or the hub id of a dataset;
                        without it the target answers prompts of ours
  --out DIR             the head (assets/demo-eagle, or -eagle3)
  --architecture KIND   eagle (EAGLE-1 and 2) or eagle3
  --work DIR            answers, features, log and checkpoints (results/train-OUT)
  --chats N             how many prompts the target answers
  --device-memory SIZE  budget of the target while its features are computed: it may be larger
  --max-length N        tokens kept of a conversation

Everything else goes to the training itself; bash train.sh --help-training lists it.
USAGE
}

target=$ROOT/assets/demo data='' out='' architecture=eagle work='' chats=1000 memory='' allocation=() training=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --help-training) training=(--help); break ;;
        --target | --data | --out | --architecture | --work | --chats | --device-memory | --host-memory | --max-length | --split)
            (($# > 1)) || { usage; fail "$1 needs a value."; }
            case $1 in
                --target) target=$2 ;;
                --data) data=$2 ;;
                --out) out=$2 ;;
                --architecture) architecture=$2 ;;
                --work) work=$2 ;;
                --chats) chats=$2 ;;
                --device-memory) memory=$2 allocation+=("$1" "$2") ;;
                *) allocation+=("$1" "$2") ;;
            esac
            shift 2
            ;;
        *) training+=("$1"); shift ;;
    esac
done
if [[ -d $target && $target != /* ]]; then target=$PWD/$target; fi
[[ $architecture == eagle || $architecture == eagle3 ]] || { usage; fail "--architecture is eagle or eagle3, not $architecture."; }
if [[ -z $out ]]; then
    [[ $target == "$ROOT/assets/demo" ]] || { usage; fail "--out is needed: the folder of the head."; }
    out=$ROOT/assets/demo-$architecture
fi
if [[ $out != /* ]]; then out=$PWD/$out; fi
work=${work:-$ROOT/results/train-$(basename "$out")}

use_environment train
# Modules come from this clone, whatever the current folder holds; relative paths in options stay relative to it.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
launch=("$PYTHON_BIN" -m)
if has_nvidia && gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) && ((gpus > 1)); then
    launch=("$PYTHON_BIN" -m accelerate.commands.launch --multi_gpu --num_processes "$gpus" -m)
fi
if [[ ${training[*]-} == --help ]]; then exec "$PYTHON_BIN" -m specdecodes.train.eagle --help; fi

# The demo's head is small and its data little: a higher rate and larger batches than published for models of 7B.
if [[ $target == "$ROOT/assets/demo" ]]; then
    precision=no length=(--epochs 10 --minutes 4)
    if [[ $architecture == eagle3 ]]; then length=(--epochs 6 --steps 4 --draft-vocab-size 2048 --minutes 6); fi
    if grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null || has_nvidia; then precision=bf16; fi
    training=("${length[@]}" --batch-size 8 --rate 2e-3 --noise 0 --mixed-precision $precision
        ${training[@]+"${training[@]}"})
fi
# A wrong option is told now, not when the data is made.
"$PYTHON_BIN" -c 'from specdecodes.train.eagle import parser; parser().parse_args()' --data "$work" --out "$out" \
    ${training[@]+"${training[@]}"}
if [[ -z $data ]]; then
    say "1/3 the target answers $chats prompts"
    data=$work/chats.jsonl
    "$PYTHON_BIN" -m specdecodes.train.data_gen.answers --target "$target" --out "$data" --count "$chats"
else
    say "1/3 conversations: $data"
fi
say "2/3 what the target computes over them"
"${launch[@]}" specdecodes.train.data_gen.allocation --target "$target" --data "$data" --architecture "$architecture" \
    --outdir "$work/data" ${allocation[@]+"${allocation[@]}"}
say "3/3 training"
"${launch[@]}" specdecodes.train.eagle --target "$target" --data "$work/data" --out "$out" --run-dir "$work/run" \
    ${training[@]+"${training[@]}"}
try=("$PYTHON_BIN" -m specdecodes.benchmark.run_mtbench -llm "$target" -ssm "$out" --mode sd-eagle)
if [[ $target == "$ROOT/assets/demo" && $architecture == eagle3 ]]; then memory=${memory:-42MiB}; fi # a larger head
if [[ -n $memory ]]; then try+=(--device-memory "$memory"); fi
say "done in $((SECONDS / 60)) min $((SECONDS % 60)) s; try the head with:"
there=''
if [[ $PWD != "$ROOT" ]]; then there="cd $(printf %q "$ROOT") && "; fi
echo "    $there$(printf '%q ' "${try[@]}")" >&2
