#!/usr/bin/env bash
# Runs a command of a pipeline: bash run.sh PIPELINE COMMAND [OPTIONS]. The first start installs what is needed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"

if (($# == 0)); then
    cat >&2 <<'USAGE'
usage: bash run.sh PIPELINE COMMAND [OPTIONS]

  bash run.sh run.exp_offloading.subspec_sd_demo run-chat
  bash run.sh run.exp_offloading.subspec_sd_demo run-benchmark --benchmarks mt-bench --max-samples 4
  bash run.sh run.exp_offloading.subspec_sd_qwen_7b run-plan --device-memory 8GiB
  bash run.sh run-chat --model FOLDER --device-memory 8GiB                    any model
  bash run.sh run.exp_offloading.subspec_sd_demo --help      the commands
  bash run.sh run.exp_offloading.subspec_sd_demo run-benchmark --help

A pipeline is a module under run/: method, model, tree, memory and sampling as one value.
USAGE
    exit 2
fi

use_environment run
# Modules come from this clone, whatever the current folder holds; relative paths in options stay relative to it.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
exec "$PYTHON_BIN" -m run.main "$@"
