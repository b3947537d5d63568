"""A process that was stopped as a whole has no reward that blocks the others."""

import signal
import subprocess
import sys
import time

STOPPED = """
import time
from evolpo.rewards.service import service
from evolpo.rewards.service.config import ServiceConfig
service.BLOCKED_S = 0.2
found = service.RewardService(ServiceConfig(timeout_s=0.5))
print("ready", flush=True)
time.sleep(2)
found.close(drain=False)
"""


def test_a_stopped_process_blames_no_reward() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
