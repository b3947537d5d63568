"""Ranks that meet: one alone needs no port, several take one that no connection is given."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from evolpo.recipes.runs.launch import free_port

ALONE = """
import os
from evolpo.rl.training.distributed import Ranks
ranks = Ranks()
left = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
print(ranks.world, ranks.gather("here"), ranks.sum_over_ranks(2.5), left)
"""


def test_one_rank_takes_no_port_and_leaves_its_children_no_rank():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        inherited = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = subprocess.run([sys.executable, "-c", ALONE], env=inherited, capture_output=True, text=True, timeout=240)
    assert done.stdout.split("\n")[-2] == f"1 ['here'] 2.5 [None, None, '{port}']", done.stderr
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    done = subprocess.run([sys.executable, "-c", ALONE], env=alone, capture_output=True, text=True, timeout=240)
    assert done.stdout.split("\n")[-2] == "1 ['here'] 2.5 [None, None, None]", done.stderr


def test_ranks_meet_below_the_ports_that_connections_are_given():
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 40
    assert min(ports) >= 1_024
    assert max(ports) < first_given
