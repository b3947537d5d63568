import asyncio

import pytest

from evolpo.rewards.frontend.browser import close_shared_browser, find_chromium


@pytest.fixture(scope="session", autouse=True)
def _browser():
    """Chromium is a requirement of these tests, not an option; one serves them all."""
    find_chromium()
    yield
    close_shared_browser()


@pytest.fixture(scope="session")
def run():
    """Run coroutines at the same time and return their results."""

    def run_all(*coroutines):
        async def gathered():
            return await asyncio.gather(*coroutines)

        return asyncio.run(gathered())

    return run_all
