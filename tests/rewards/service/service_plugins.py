"""Isolated functions for the tests of the service: light, as each new worker imports this."""

import os
import signal
import time

from evolpo.rewards.base import Sample, sample_reward


@sample_reward(isolate=True, cold_timeout_s=1.0)
def in_worker(sample: Sample) -> float:
    """Do what the text says: `pid`, `hang`, `exit`, or `killed once FILE`; else 1."""
    if sample.text == "pid":
        return float(os.getpid())
    if sample.text == "hang":
        time.sleep(3600)
    if sample.text == "exit":
        os._exit(3)
    if sample.text.startswith("killed once "):
        try:
            os.close(os.open(sample.text.removeprefix("killed once "), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return 1.0
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
