"""A trainer on two hosts, engines on two, three in all, as network namespaces; one is cut off and comes back."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evolpo.recipes.training.record import read_batch
from evolpo.rl.logs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
HOSTS = ("evolpo0", "evolpo1", "evolpo2")
BRIDGE = "evolpobr"
STEPS = 60
PLUGIN = """
import time
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    time.sleep(0.2)
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)
"""


def address(host: str) -> str:
    return f"10.77.0.{HOSTS.index(host) + 1}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def namespaces_can_be_made() -> bool:
    if os.geteuid() or not shutil.which("ip"):
        return False
    made = subprocess.run(["ip", "netns", "add", "evolpotry"], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", "evolpotry"], capture_output=True).returncode == 0


@pytest.fixture
def hosts() -> Iterator[None]:
    """Three namespaces, each with one wire to a switch of their own; nothing leads outside."""
    if not namespaces_can_be_made():
        pytest.skip("network namespaces need root and iproute2")
    remove()
    ip("netns", "add", BRIDGE)
    ip("-n", BRIDGE, "link", "add", "br0", "type", "bridge")
    ip("-n", BRIDGE, "link", "set", "br0", "up")
    for host in HOSTS:
        ip("netns", "add", host)
        ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", BRIDGE)
        ip("-n", BRIDGE, "link", "set", host, "master", "br0", "up")
        ip("-n", host, "addr", "add", f"{address(host)}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "eth0", "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield
    remove()


def pids(host: str) -> list[str]:
    """Processes on a host."""
    return subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()


def remove() -> None:
    for host in (*HOSTS, BRIDGE):
        for pid in pids(host):
            subprocess.run(["kill", "-9", pid], capture_output=True)
        subprocess.run(["ip", "netns", "del", host], capture_output=True)


def until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 400.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)


def command(model: str) -> list[str]:
    fields = [
        "name=hosts",
        f"model.path={model}",
        f"steps={STEPS}",
        "prompts_per_step=2",
        "responses_per_prompt=4",
        "data.train=[{kind: reasoning_gym, family: chain_sum, size: 400, difficulty: easy}]",
        "data.heldout_size=6",
        "data.max_prompt_tokens=200",
        "rollout.max_response_tokens=40",
        "rollout.kv_cache_gb=0.25",
        "rollout.fleet.engines=2",
        "rollout.fleet.max_staleness=1",
        "rollout.fleet.stall_s=10",
        "rollout.fleet.threads=1",
        "algorithm.correction=tis",
        "rewards.components=[{use: 'plugin:vowels'}]",
        "trainer.learning_rate=0.001",
        "trainer.precision=fp32",
        "trainer.zero_stage=2",
        "trainer.tokens_per_micro_batch=256",
        "trainer.save_every=1000",
        "logger.record=true",
    ]
    return ["-m", "evolpo.recipes.cli", "train", *fields]


REMOTE = """#!/bin/bash
# Runs a line on a host. Those that the trainer is not on have a folder of their own for Ray, as hosts have.
host=$1
shift
own=
[ "$host" = {first} ] || for shared in /tmp/evolpo-cluster-*/; do
    [ -d "$shared" ] && mkdir -p {folder}/ray-$host && own="mount --bind {folder}/ray-$host ${shared%/} && "
done
exec ip netns exec "$host" unshare -m bash -c "$own$*"
"""
RANKS = """#!/bin/bash
# Starts a rank of the trainer on each of two hosts; this one is the first of them.
launch="{python} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --master-addr={first} --master-port=29555"
./remote {second_host} "cd $PWD && $launch --node-rank=1 $(printf '%q ' "$@")" >rank1.log 2>&1 &
$launch --node-rank=0 "$@"
code=$?
wait $! && exit $code
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_host_is_cut_off_and_comes_back(hosts: None, tmp_path: Path, served_model_path: str) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "hosts").write_text("".join(f"{host} {address(host)}\n" for host in HOSTS))
    remote = script(tmp_path / "remote", REMOTE.replace("{folder}", str(tmp_path)).replace("{first}", HOSTS[0]))
    both = RANKS.format(python=sys.executable, first=address(HOSTS[0]), second_host=HOSTS[1])
    ranks = script(tmp_path / "ranks", both)
    log = tmp_path / "log"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        "REMOTE": str(remote),
        "PYTHON": sys.executable,
    }
    words = ["ip", "netns", "exec", HOSTS[0], "bash", str(ROOT / "scripts" / "cluster.sh"), "--hosts", "hosts"]
    words += [str(ranks), *command(served_model_path)]
    run = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def rows() -> list[dict[str, float]]:
        files = list(tmp_path.glob("outputs/hosts/*/metrics.jsonl"))
        return read_metrics(files[0]) if files else []

    until(lambda: any(row.get("fleet/live") == 2.0 for row in rows()), run, log)
    [folder] = Path("/tmp").glob("evolpo-cluster-*")
    lost = next(  # how the raylet of the third host was started, to do it again
        words for pid in pids(HOSTS[2]) if "start" in (words := Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
    )
    ip("-n", BRIDGE, "link", "set", HOSTS[2], "down")
    until(lambda: any(row.get("fleet/deaths") == 1.0 for row in rows()), run, log)
    cut = len(rows())
    until(lambda: len(rows()) > cut + 3, run, log)  # it goes on with the engine that is left
    for pid in pids(HOSTS[2]):
        subprocess.run(["kill", "-9", pid], capture_output=True)
    ip("-n", BRIDGE, "link", "set", HOSTS[2], "up")
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token", "RAY_TMPDIR": str(folder)}
    again = ["ip", "netns", "exec", HOSTS[2], *(word for word in lost if word)]
    with (tmp_path / "again.log").open("wb") as said:
        subprocess.Popen(again, env=environment | settings, stdout=said, stderr=subprocess.STDOUT)
    until(lambda: rows()[-1].get("fleet/live") == 2.0 or run.poll() is not None, run, log)
    assert run.wait(timeout=600) == 0, log.read_text()[-3000:]

    found = rows()
    assert [row["step"] for row in found] == list(range(STEPS + 1))
    assert max(row["staleness/response_max"] for row in found[1:]) == 1.0
    assert found[-1]["fleet/live"] == 2.0
    [result] = (tmp_path / "outputs" / "hosts").iterdir()
    batches = [read_batch(result, step, rank, world=2)[0] for step in range(1, STEPS + 1) for rank in range(2)]
    taken = [group.prompt.id for groups in batches for group in groups]
    assert len(set(taken)) == len(taken) == 2 * STEPS
    assert not list(Path("/tmp").glob("evolpo-cluster-*"))
    assert [pids(host) for host in HOSTS[:2]] == [[], []]  # what was started by hand on the third is not the script's
