# A Python with the pinned requirements, for the scripts that source this file:
#     use_environment run|dev|train     # sets PYTHON_BIN
# An active virtual environment is used as it is. Otherwise .venv is made on first use; a stamp with the text of the
# requirement files tells later starts that nothing is left to do, and an interrupted installation goes on. Everything said
# here goes to stderr. Set PYTHON=/path/to/python to choose the interpreter that .venv is made with.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
INSTALL_LOG=$VENV/install.log

say() { printf '==> %s\n' "$1" >&2; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

use_environment() {
    local needs=(torch transformers safetensors tokenizers huggingface_hub jinja2 numpy psutil rich tqdm typer)
    if [[ $1 == dev ]]; then needs+=(pytest xdist ruff mypy); fi
    if [[ $1 == train ]]; then needs+=(accelerate); fi
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
        PYTHON_BIN=$VIRTUAL_ENV/bin/python
        [[ -x $PYTHON_BIN ]] || fail "VIRTUAL_ENV is $VIRTUAL_ENV, which holds no bin/python; unset it or make it anew."
        check_active "$1" "${needs[@]}"
    else
        PYTHON_BIN=$VENV/bin/python
        is_current "$1" || install_environment "$1"
    fi
}

check_active() {
    local file=requirements.txt missing
    [[ $1 == run ]] || file=requirements-$1.txt
    missing=$("$PYTHON_BIN" -c '
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))' "${@:2}") ||
        fail "$PYTHON_BIN does not run."
    [[ -z $missing ]] || fail "the active environment $VIRTUAL_ENV lacks $missing. \
Run 'pip install -r $ROOT/$file' in it, or 'deactivate' it and an environment of its own will be made."
}

has_nvidia() { [[ -e /proc/driver/nvidia/version ]] || command -v nvidia-smi >/dev/null; }

requirement_files() {
    echo "$ROOT/requirements.txt"
    if [[ $1 != run ]]; then echo "$ROOT/requirements-$1.txt"; fi
    if has_nvidia; then echo "$ROOT/requirements-gpu.txt"; fi
}

# The state that makes an installed environment current; the stamp keeps it.
fingerprint() {
    "$PYTHON_BIN" -SEc 'import sys; print(sys.version_info[:2], sys.platform)'
    requirement_files "$1" | while read -r file; do cat "$file"; done
}

is_current() {
    local stamp=$VENV/$1.stamp
    [[ -x $PYTHON_BIN && -f $stamp ]] && [[ $(<"$stamp") == "$(fingerprint "$1")" ]]
}

install_environment() {
    local python=${PYTHON:-python3} started=$SECONDS
    command -v "$python" >/dev/null || fail "$python was not found; install Python 3.11 or newer."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed, but $python is $("$python" -V 2>&1). Set PYTHON=/path/to/a/newer/python3."
    mkdir -p "$VENV" || fail "$VENV cannot be written."
    lock_environment
    if is_current "$1"; then return; fi # another start has just finished it
    check_space
    : >"$INSTALL_LOG" || fail "$VENV cannot be written."

    say "first start: installing the requirements into $VENV (later starts skip this)"
    say "1/3 virtual environment, $("$python" -V 2>&1)"
    "$PYTHON_BIN" -m pip --version &>/dev/null || "$python" -m venv "$VENV" >&2 ||
        fail "'$python -m venv' failed; on Debian and Ubuntu it needs 'apt install python3-venv'."
    if has_nvidia; then
        say "2/3 torch (CUDA build: an NVIDIA driver was found)"
        pip_install torch "torch==$(torch_version)"
    else
        say "2/3 torch (CPU build: no NVIDIA driver was found)"
        install_cpu_torch
    fi
    say "3/3 the other requirements"
    local arguments=() file
    while read -r file; do arguments+=(-r "$file"); done < <(requirement_files "$1")
    pip_install "the requirements" "${arguments[@]}"
    fingerprint run >"$VENV/run.stamp"
    fingerprint "$1" >"$VENV/$1.stamp" || fail "$VENV cannot be written; free some disk space."
    exec 9>&-
    say "done in $((SECONDS - started)) s"
}

# Two first starts at once would install into each other; the second waits.
lock_environment() {
    exec 9>"$VENV/install.lock"
    command -v flock >/dev/null || return 0
    flock -n 9 && return
    say "another start is installing; waiting for it"
    flock 9
}

check_space() {
    local need_mb=2500 free_mb
    if has_nvidia; then need_mb=10000; fi
    compgen -G "$VENV/lib/python3*/site-packages/torch/version.py" >/dev/null && return # resuming: most of it is there
    free_mb=$(df -Pk "$VENV" | awk 'NR == 2 { print int($4 / 1024) }')
    ((free_mb >= need_mb)) ||
        fail "the disk of $ROOT has $free_mb MB free and the requirements take up to $need_mb MB; free some space first."
}

torch_version() { sed -n 's/^torch==//p' "$ROOT/requirements.txt"; }

# torch goes first and alone, so that no other package pulls the CUDA build. The configured indexes are asked first.
install_cpu_torch() {
    local wanted="torch==$(torch_version)+cpu" index=()
    if [[ $(uname -s) == Darwin ]]; then wanted="torch==$(torch_version)"; fi # the only build there
    "$PYTHON_BIN" -m pip install --quiet --dry-run --no-deps --retries 1 --timeout 10 "$wanted" &>/dev/null ||
        index=(--extra-index-url https://download.pytorch.org/whl/cpu)
    pip_install "the CPU build of torch" "$wanted" ${index[@]+"${index[@]}"}
}

pip_install() {
    "$PYTHON_BIN" -m pip install --disable-pip-version-check --no-input --retries 2 --log "$INSTALL_LOG" "${@:2}" >&2 ||
        explain_failure "$1"
}

explain_failure() {
    local again="The same command goes on from where it stopped."
    if grep -q 'No space left on device' "$INSTALL_LOG" || ! echo >>"$INSTALL_LOG"; then
        fail "the disk is full ($VENV, or ${TMPDIR:-/tmp} where pip unpacks). Free some space. $again"
    fi
    if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|ConnectionError' "$INSTALL_LOG"; then
        fail "$1 could not be downloaded: the package index was not reached. Check the network or pip's settings. $again"
    fi
    fail "pip could not install $1; the reason is above, the whole log is $INSTALL_LOG. $again"
}
