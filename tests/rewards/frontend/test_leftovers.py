import os
import signal
import subprocess
import sys

import psutil
import pytest

SCORING = """
import asyncio, signal, sys
from evolpo.rewards.frontend.browser import shared_browser
from evolpo.rewards.frontend.extract import Page

async def work(browser):
    page = Page("<!DOCTYPE html><title>Loop</title><script>setTimeout(() => { for (;;); })</script>")
    async with browser.open(page) as tab:
        print("ready", flush=True)
        await tab.wait(10)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
asyncio.run(shared_browser().run(work, 600.0))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_scoring_process_that_was_killed(number):
    with subprocess.Popen([sys.executable, "-c", SCORING], stdout=subprocess.PIPE, text=True) as scoring:
        assert scoring.stdout.readline() == "ready\n"
        started = psutil.Process(scoring.pid).children(recursive=True)
        assert any("--type=renderer" in " ".join(one.cmdline()) for one in started)
        os.kill(scoring.pid, number)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert [one.name() for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
