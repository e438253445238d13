#!/usr/bin/env bash
# Runs the tests: bash run_test.sh [PYTEST ARGUMENTS], paths relative to the project. The first start installs what is needed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"

use_environment dev
cd "$ROOT"
exec "$PYTHON_BIN" -m pytest --durations=5 "$@"
