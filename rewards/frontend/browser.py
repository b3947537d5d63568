"""A headless Chromium for pages that nobody trusts: no network, a clock that we turn, a seed, deadlines.

The browser lives in a thread with an event loop of its own, so that it outlasts the loops of its users. Time in a page
stands still unless `Tab.wait` moves it: two loads of a page that get the same input run alike, whatever the machine's
load, and a page that waits for time to pass in a busy loop waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from evolpo import InputError
from evolpo.rewards.ending import at_end
from evolpo.rewards.frontend import tab as tab_module
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.tab import VIEWPORT, PageFaultError, PageHangError, ProcessTime, Tab, script

if TYPE_CHECKING:
    import psutil
    from playwright.async_api import Browser

T = TypeVar("T")

MAX_PAGES = 2
"""Pages that are judged at the same time."""
EPOCH = "2024-01-01T12:00:00Z"

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")
"""Names of Chromium, the first that is there is taken: without the parts for windows a page costs half the CPU time."""

_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
_ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    # A page is to see what it sees on a person's machine: `navigator.webdriver` is false.
    "--disable-blink-features=AutomationControlled",
    "--force-color-profile=srgb",
    # Whatever is not answered by a `Tab` finds no name and no way out, loopback included.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)


def find_chromium() -> str:
    """Path of Chromium: $EVOLPO_CHROMIUM, else from $PATH. Raises InputError if it or Playwright is missing."""
    try:
        import playwright  # noqa: F401
    except ImportError as error:
        raise InputError("the frontend reward needs the Python package playwright: pip install playwright") from error
    given = os.environ.get("EVOLPO_CHROMIUM")
    found = next(filter(None, map(shutil.which, [given] if given else PROGRAMS)), None)
    if found is None:
        what = f"$EVOLPO_CHROMIUM is {given!r}, which is no program" if given else "there is no chromium in $PATH"
        raise InputError(
            f"the frontend reward needs Chromium: {what}; apt-get install chromium-headless-shell (or chromium), "
            "or set EVOLPO_CHROMIUM"
        )
    return found


class BrowserThread:
    """One Chromium and the thread that talks to it."""

    def __init__(self) -> None:
        self._executable = find_chromium()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="frontend-browser", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(MAX_PAGES)
        self._starting = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._browser: Browser | None = None
        self._playwright: Any = None
        self._about: Any = None
        self._mark = ""

    async def run(self, work: Callable[[BrowserThread], Awaitable[T]], deadline_s: float) -> T:
        """Run a coroutine function in the browser's thread, a few at a time; the clock starts when it does.

        Raises:
            PageHangError: the deadline passed, or the page did not answer, while an empty page did.
            PageFaultError: anything else went wrong, and an empty page answered in the same browser.
            InputError: as `work` raises it.
            TimeoutError: an empty page did not answer; the browser has been killed and the next call starts another.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._run(work, deadline_s), self._loop))

    async def _run(self, work: Callable[[BrowserThread], Awaitable[T]], deadline_s: float) -> T:
        async with self._slots:
            await self._start()
            try:
                async with asyncio.timeout(deadline_s):
                    return await self._tried(work)
            except InputError:
                raise
            except Exception as error:
                alive = self._browser is not None and self._browser.is_connected()
                if alive and await self._answers():
                    if isinstance(error, TimeoutError):
                        raise PageHangError(f"not done within {deadline_s:g} s") from error
                    if isinstance(error, PageFaultError):
                        raise
                    first, *_ = [*str(error).splitlines(), type(error).__name__]
                    raise PageFaultError(first[:300]) from error
                await self.kill()
                raise TimeoutError("the browser does not answer and was killed") from error

    async def _tried(self, work: Callable[[BrowserThread], Awaitable[T]]) -> T:
        """Do it, and once more where Chromium had no picture of a page: another one keeps it busy."""
        from playwright.async_api import Error

        try:
            return await work(self)
        except Error as error:
            if "capture screenshot" not in error.message:
                raise
        return await work(self)

    @contextlib.asynccontextmanager
    async def open(self, page: Page) -> AsyncIterator[Tab]:
        """A fresh context with the page loaded in it, closed at the end. Only within `run`."""
        browser = await self._start()
        context = await browser.new_context(
            viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]},
            user_agent=_AGENT.format(browser.version.partition(".")[0]),
            locale="en-US",
            timezone_id="UTC",
            color_scheme="light",
            reduced_motion="no-preference",
            service_workers="block",
            accept_downloads=False,
            permissions=["clipboard-read", "clipboard-write"],
        )
        try:
            await context.add_init_script(script("seed.js"))
            await context.clock.install(time=EPOCH)
            await context.clock.pause_at(EPOCH)
            # One at a time, so that the processes that are new afterwards are this tab's.
            async with self._opening:
                before = {pid for pid, _ in await self._processes("renderer")}
                opened = await context.new_page()
                own = [pid for pid, _ in await self._processes("renderer") if pid not in before]
            painters = [pid for pid, _ in await self._processes("GPU")]
            tab = Tab(page, context, opened, ProcessTime(own), ProcessTime(painters))
            await tab.load()
            yield tab
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(tab_module.STEP_TIMEOUT_S):
                    await context.close()

    async def _start(self) -> Browser:
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                from playwright.async_api import async_playwright

                await self.kill()
                self._mark = f"--frontend-reward={uuid.uuid4()}"
                self._playwright = await async_playwright().start()
                root = ("--no-sandbox",) if os.geteuid() == 0 else ()
                self._browser = await self._playwright.chromium.launch(
                    executable_path=self._executable, args=[*_ARGUMENTS, *root, self._mark]
                )
                self._about = await self._browser.new_browser_cdp_session()
            assert self._browser is not None
            return self._browser

    async def _processes(self, kind: str) -> list[tuple[int, float]]:
        """Process numbers and seconds of CPU time of Chromium's processes of a kind."""
        found = await self._about.send("SystemInfo.getProcessInfo")
        return [(one["id"], one["cpuTime"]) for one in found["processInfo"] if one["type"] == kind]

    async def _answers(self) -> bool:
        """Whether an empty page loads: the control experiment for a page that hangs."""
        try:
            async with asyncio.timeout(tab_module.STEP_TIMEOUT_S):
                async with self.open(Page("<!DOCTYPE html><title>Empty</title>")) as tab:
                    return bool(await tab.evaluate("true"))
        except Exception:  # noqa: BLE001 - whatever it is, the browser does not answer
            return False

    async def kill(self) -> None:
        """End Chromium with all its processes, also if it hangs."""
        import psutil

        for child in psutil.Process().children(recursive=True) if self._mark else []:
            with contextlib.suppress(psutil.Error):
                if self._mark in child.cmdline():
                    # Playwright's own process first: it would wait for the browser to say goodbye, for seconds.
                    parent, rest = child.parent(), child.children(recursive=True)
                    _kill([*([parent] if parent is not None and parent.pid != os.getpid() else []), child, *rest])
        playwright, self._playwright, self._browser, self._mark = self._playwright, None, None, ""
        if playwright is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(tab_module.STEP_TIMEOUT_S):
                    await playwright.stop()

    def close(self) -> None:
        """End the browser and the thread."""
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self.kill(), self._loop).result(timeout=2 * tab_module.STEP_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=tab_module.STEP_TIMEOUT_S)


def _kill(processes: Sequence[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


_shared: BrowserThread | None = None
_shared_lock = threading.Lock()


def shared_browser() -> BrowserThread:
    """The browser of this process. Raises InputError if Chromium or Playwright is missing."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = BrowserThread()
        return _shared


def close_shared_browser() -> None:
    """End the shared browser; the next call starts another."""
    global _shared
    with _shared_lock:
        browser, _shared = _shared, None
    if browser is not None:
        browser.close()


at_end(close_shared_browser)
