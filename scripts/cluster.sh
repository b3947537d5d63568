#!/usr/bin/env bash
# Start a Ray cluster on several hosts, run a command with its address, and end the cluster with the command.
# Usage: scripts/cluster.sh [--hosts FILE] COMMAND...
#   scripts/cluster.sh --hosts hosts evolpo train experiment=... rollout.fleet.engines=2
# FILE has a host a line as ssh knows it, then its address if the name does not resolve to that. Without FILE: the hosts
# of the Slurm allocation. The command runs on the first host, where this script must run too; engines run on the others.
# REMOTE is what runs a line of shell on a host (ssh; srun under Slurm), PYTHON the interpreter, at the same path everywhere.
set -Eeuo pipefail

PYTHON=$(realpath -s "${PYTHON:-$(dirname "$0")/../.venv/bin/python}")
PORT=${PORT:-6379}
hosts=() addresses=()
if [ "${1:-}" = --hosts ]; then
    while read -r host address; do
        [ -z "$host" ] || [ "${host:0:1}" = "#" ] || { hosts+=("$host"); addresses+=("${address:-}"); }
    done <"$2"
    shift 2
elif [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    REMOTE=${REMOTE:-slurm}
fi
[ "${#hosts[@]}" -gt 1 ] && [ "$#" -gt 0 ] || { echo "usage: $0 [--hosts FILE] COMMAND...; at least two hosts" >&2; exit 2; }
slurm() { srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" bash -c "$2"; }
on() { "${REMOTE:-ssh}" "$1" "cd $(printf %q "$PWD") && $2"; }
for place in "${!hosts[@]}"; do
    [ -n "${addresses[place]:-}" ] || addresses[place]=$(getent ahostsv4 "${hosts[place]}" | awk 'NR == 1 {print $1}')
    [ -n "${addresses[place]}" ] || { echo "hosts: ${hosts[place]} has no address; write it behind the name" >&2; exit 2; }
done

# The same versions everywhere, before anything is started.
versions="$(printf %q "$PYTHON") -c 'from evolpo.rollout.engine_actor import installed; print(installed())'"
wanted=$(on "${hosts[0]}" "$versions")
for host in "${hosts[@]:1}"; do
    found=$(on "$host" "$versions") || { echo "hosts: $host does not run $PYTHON with evolpo; install it there" >&2; exit 2; }
    [ "$found" = "$wanted" ] || { echo "hosts: $host has $found, ${hosts[0]} $wanted; install the same" >&2; exit 2; }
done

# Whoever knows the token may run code on the cluster: it goes over standard input, not over command lines.
token=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
folder=$(mktemp -d /tmp/evolpo-cluster-XXXXXX)
settings="RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_TMPDIR=$folder RAY_ENABLE_AUTO_CONNECT=0"
settings+=" RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1"
started=()
end() {
    trap - EXIT INT TERM
    local tree="tree() { for child in \$(pgrep -P \$1); do tree \$child; done; echo \$1; }"
    for ((place = ${#hosts[@]} - 1; place >= 0; place--)); do # the first one, which the others speak to, last
        on "${hosts[place]}" "$tree; kill -9 \$(tree \$(cat $folder/pid)); rm -rf $folder" </dev/null >/dev/null 2>&1 || true
    done
    kill "${started[@]}" 2>/dev/null || true
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
node() { # place, options of `ray start`...
    local start="$(dirname "$PYTHON")/ray start --block --node-ip-address=${addresses[$1]} ${*:2}"
    on "${hosts[$1]}" "umask 077; mkdir -p $folder && cat >$folder/token && echo \$\$ >$folder/pid && exec env $settings $start" \
        <<<"$token" >"$folder/ray-$1.log" 2>&1 &
    started+=($!)
}
health=$("$PYTHON" -c 'import json; from evolpo.rollout.engine_actor import HEALTH; print(json.dumps(HEALTH))')
node 0 --head "--port=$PORT" --num-cpus=0 --num-gpus=0 "--system-config='$health'"
for place in "${!hosts[@]}"; do
    [ "$place" -eq 0 ] || node "$place" "--address=${addresses[0]}:$PORT"
done
export $settings
"$PYTHON" - "${addresses[0]}:$PORT" "${#hosts[@]}" <<'PY' &
import sys, time
from evolpo.rollout.engine_actor import Cluster, check_address
from evolpo import InputError

address, wanted, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + 180
while True:
    try:
        check_address(address)
        break
    except InputError as error:
        if time.monotonic() > end:
            sys.exit(f"evolpo: {error}")
        time.sleep(0.5)
cluster = Cluster(address, 0, 0)
while cluster.hosts() < wanted:
    if time.monotonic() > end:
        sys.exit(f"evolpo: hosts: {cluster.hosts()} of {wanted} have joined the cluster")
    time.sleep(0.5)
cluster.close()
PY
joining=$!
while kill -0 "$joining" 2>/dev/null; do
    for place in "${!hosts[@]}"; do
        kill -0 "${started[place]}" 2>/dev/null || { tail -n 5 "$folder/ray-$place.log" >&2; echo "hosts: Ray has ended on ${hosts[place]}" >&2; exit 1; }
    done
    sleep 0.5
done
wait "$joining" || { tail -n 5 "$folder"/ray-*.log >&2; exit 1; }
echo "cluster: ${#hosts[@]} hosts at ${addresses[0]}:$PORT" >&2
"$@" "rollout.fleet.address=${addresses[0]}:$PORT"
