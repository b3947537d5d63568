"""One load of a page in Chromium: what happened in it, and ways to act on it and to look at it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from evolpo.rewards.frontend.delivery import Delivered, deliver, without_integrity
from evolpo.rewards.frontend.extract import Page

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Dialog, FileChooser, Request, Route, WebSocketRoute
    from playwright.async_api import Page as PlaywrightPage

T = TypeVar("T")

VIEWPORT = (1280, 800)
"""Width and height of the window in CSS pixels."""
ORIGIN = "https://page.test"
STEP_TIMEOUT_S = 10.0
"""Seconds of CPU time that a page has for one command; one that answers later hangs. Of the clock for an empty page."""
LOOK_S = 0.5
"""Seconds between two looks at the CPU time of a page that does not answer."""
SLOW_FRAME_S = 0.04
"""Seconds of CPU time for a frame from which on frames are dropped: time passes in steps of `SLOW_STEPS_MS`."""
SLOW_STEPS_MS = (50, 250)
"""Steps for slow pages, and for those whose frame takes five times as long."""

SHOTS, SHOT_PAUSE_S = 13, 0.25
"""How often a picture is tried, and seconds in between."""
READ_S = 0.1
"""Seconds that a page has to read a file that it was given: reading does not wait for the page's own time."""
DRAG_STEPS = 5
WHEEL = 240
"""Pixels that a turn of the wheel would scroll."""
_USING = {"click", "mousedown", "mouseup", "pointerdown", "pointerup", "touchstart", "drop", "dragover"}
_USING |= {"dblclick", "contextmenu", "wheel"}
"""Events by which a page learns that the mouse was used on an element."""

_TYPES = {
    "html": "text/html",
    "htm": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
}


def _square() -> bytes:
    """A small picture, a PNG: red, 96 pixels wide and high."""
    rows = zlib.compress((b"\0" + b"\xcc\x33\x33" * 96) * 96)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 96, 96, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


_UPLOADS = {
    "json": ("small.json", "application/json", b'{"items": [{"name": "Tea", "price": 3}]}'),
    "csv": ("small.csv", "text/csv", b"name,price\nTea,3\nCake,5\n"),
    "text": ("small.txt", "text/plain", b"A few words\non two lines.\n"),
    "image": ("small.png", "image/png", _square()),
}
"""Kind -> name, type and content of the file that a page gets when it asks for one."""


class PageFaultError(Exception):
    """The page cannot be judged although an empty one can: its own fault."""


class PageHangError(PageFaultError):
    """The page does not answer, although the browser does."""


class PageCrashError(PageFaultError):
    """The page's process died, for want of memory as a rule."""


class ProcessTime:
    """CPU time of some processes: what a page has worked, whatever else keeps the machine busy."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def seconds(self) -> float:
        """CPU seconds of the one that has most; those that have ended count as 0."""
        import psutil

        spent = [0.0]
        for pid in self._pids:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                spent.append(times.user + times.system)
        return max(spent)


@cache
def script(name: str) -> str:
    """Text of a file of the folder `data`."""
    return (Path(__file__).parent / "data" / name).read_text(encoding="utf-8")


class Tab:
    """One load of a page: what happened in it, and ways to act on it.

    `evaluate` runs in a world of its own, which shares the document with the page but none of its JavaScript: a page
    cannot lie to it.
    """

    def __init__(
        self, page: Page, context: BrowserContext, tab: PlaywrightPage, worked: ProcessTime, painted: ProcessTime
    ) -> None:
        self.page = page
        self.step_ms = page.step_ms
        """See `Page.step_ms`; found out by `find_step` for others."""
        self._worked = worked
        self._painted = painted
        self.playwright = tab
        self.uncaught: list[str] = []
        """Uncaught errors and unhandled rejections."""
        self.console_errors: list[str] = []
        self.refused: list[str] = []
        """Addresses outside the page that it asked for."""
        self.missing: list[str] = []
        """Its own files that were not given."""
        self.left: list[str] = []
        """Addresses that it tried to go to, with what a form would send there."""
        self.downloads = 0
        """Files that it gave to the user."""
        self._choosing: set[asyncio.Future[None]] = set()
        self.crashed = False
        self._context = context
        self._served = False
        self._world = 0
        tab.on("pageerror", lambda error: self.uncaught.append(str(error)[:500]))
        tab.on("console", lambda message: self._on_console(message.type, message.text))
        tab.on("dialog", self._on_dialog)
        tab.on("download", lambda _: setattr(self, "downloads", self.downloads + 1))
        tab.on("filechooser", self._on_chooser)
        tab.on("crash", lambda _: setattr(self, "crashed", True))
        context.on("page", self._on_popup)

    async def load(self) -> None:
        """Open the document and wait for its files; no time passes in it."""
        await self._context.route("**/*", self._on_request)
        await self._context.route_web_socket("**/*", self._on_web_socket)
        await self._within(self.playwright.goto(f"{ORIGIN}/index.html", wait_until="commit", timeout=0))
        self._cdp = await self._context.new_cdp_session(self.playwright)
        await self._enter_world()
        # The event "load" never comes to a page that tried to leave meanwhile.
        await self.evaluate("probe.loaded()")

    async def _enter_world(self) -> None:
        tree = await self._within(self._cdp.send("Page.getFrameTree"))
        frame = {"frameId": tree["frameTree"]["frame"]["id"], "worldName": "probe"}
        created = await self._within(self._cdp.send("Page.createIsolatedWorld", frame))
        self._world = created["executionContextId"]
        await self.evaluate(script("dom.js") + script("probe.js"))

    async def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, promises awaited; `probe` is at hand. Raises RuntimeError if it throws."""
        answer = await self.command(
            "Runtime.evaluate",
            {"expression": expression, "contextId": self._world, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"probe: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    async def command(self, method: str, parameters: dict[str, Any]) -> Any:
        """Answer to a command of the Chrome DevTools protocol."""
        return await self._within(self._cdp.send(method, parameters))

    async def listeners(self) -> set[str]:
        """Types of all event listeners; elements with one for clicks, drags and drops are marked, to be found later."""
        types: set[str] = set()
        on_window: set[str] = set()
        used: dict[int, set[str]] = {}
        for target, depth in (("window", 1), ("document", -1)):
            # From the page's own world: from another, the protocol shows only listeners of that one.
            found = await self.command("Runtime.evaluate", {"expression": target})
            parameters = {"objectId": found["result"]["objectId"], "depth": depth, "pierce": depth < 0}
            answer = await self.command("DOMDebugger.getEventListeners", parameters)
            for listener in answer["listeners"]:
                types.add(listener["type"])
                if depth > 0:
                    on_window.add(listener["type"])
                if listener["type"] in _USING and depth < 0 and "backendNodeId" in listener:
                    used.setdefault(listener["backendNodeId"], set()).add(listener["type"])
        await asyncio.gather(*(self._mark(node, sorted(of_node)) for node, of_node in used.items()))
        if on_window & _USING:
            await self.evaluate(f"probe.mark(document, {json.dumps(sorted(on_window & _USING))})")
        return types

    async def _mark(self, backend_node: int, types: list[str]) -> None:
        node = {"backendNodeId": backend_node, "executionContextId": self._world}
        resolved = await self.command("DOM.resolveNode", node)
        declaration = f"function() {{ probe.mark(this, {json.dumps(types)}); }}"
        call = {"objectId": resolved["object"]["objectId"], "functionDeclaration": declaration}
        await self.command("Runtime.callFunctionOn", call)

    async def wait(self, milliseconds: int) -> None:
        """Let time pass in the page; its timers and animation frames run, each at most once in a step.

        A file that it asks for before or meanwhile is given, and read.
        """
        await self._files_given()
        if self.step_ms == 0:
            await self._pass(self.playwright.clock.run_for(milliseconds))
        else:
            for begun in range(0, milliseconds, self.step_ms):
                await self._pass(self.playwright.clock.fast_forward(min(self.step_ms, milliseconds - begun)))
        await self._files_given()

    async def _files_given(self) -> None:
        if self._choosing:
            await asyncio.wait(self._choosing, timeout=STEP_TIMEOUT_S)
            await asyncio.sleep(READ_S)

    async def _pass(self, time_passes: Awaitable[None]) -> None:
        """Let time pass; what timers throw, Playwright throws when it has passed: an uncaught error of the page."""
        from playwright.async_api import Error

        try:
            await self._within(time_passes)
        except Error as error:
            message = error.message.removeprefix("Clock.run_for: ").removeprefix("Clock.fast_forward: ")
            self.uncaught.append(message.splitlines()[0][:500])

    async def find_step(self) -> None:
        """Measure what two frames cost, in CPU time, and let time pass in steps from here on if that is much."""
        begun = self._worked.seconds() + self._painted.seconds()
        await self._pass(self.playwright.clock.run_for(33))
        await self.evaluate("probe.painted()")
        frame_s = (self._worked.seconds() + self._painted.seconds() - begun) / 2
        if frame_s > SLOW_FRAME_S:
            self.step_ms = SLOW_STEPS_MS[frame_s > 5 * SLOW_FRAME_S]

    async def screenshot(self) -> bytes:
        """PNG of the window, with animations at their ends."""
        return await self._taken(lambda: self.playwright.screenshot(animations="disabled", timeout=0))

    async def picture(self, width: int, height: int) -> bytes:
        """PNG of the page from its top left corner, in CSS pixels; beyond the window it is laid out for that."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        beyond = {"clip": clip, "captureBeyondViewport": height > VIEWPORT[1]}
        shot = await self._taken(lambda: self._cdp.send("Page.captureScreenshot", beyond))
        return base64.b64decode(shot["data"])

    async def _taken(self, take: Callable[[], Awaitable[T]]) -> T:
        """A picture; taken again where Chromium has just thrown away the frame, as it does in fast animations."""
        from playwright.async_api import Error

        for _ in range(SHOTS - 1):
            with contextlib.suppress(Error):
                return await self._within(take())
            if self.crashed:
                break
            await asyncio.sleep(SHOT_PAUSE_S)
        return await self._within(take())

    async def click(self, x: float, y: float) -> None:
        """A real click of the mouse at a place in the window."""
        await self._within(self.playwright.mouse.click(x, y))

    async def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        await self._within(self.playwright.mouse.move(x, y))

    async def gesture(self, kind: str, x: float, y: float) -> None:
        """What the mouse can do besides: `dblclick`, `contextmenu` (its right button) or `wheel`, a turn up."""
        mouse = self.playwright.mouse
        if kind == "wheel":
            await self._within(mouse.move(x, y))
            await self._within(mouse.wheel(0, -WHEEL))
        elif kind == "contextmenu":
            await self._within(mouse.click(x, y, button="right"))
        else:
            await self._within(mouse.dblclick(x, y))

    async def drag(self, x: float, y: float, right: float, down: float) -> None:
        """Drag with the real mouse from one place in the window to another."""
        mouse = self.playwright.mouse
        await self._within(mouse.move(x, y))
        await self._within(mouse.down())
        await self._within(mouse.move(right, down, steps=DRAG_STEPS))
        await self._within(mouse.move(right, down))  # Only the second one over a target counts as dragging over it.
        await self._within(mouse.up())

    async def press(self, key: str) -> None:
        """A real key."""
        await self._within(self.playwright.keyboard.press(key))

    async def hold(self, key: str, milliseconds: int) -> None:
        """A real key, held down while time passes."""
        await self._within(self.playwright.keyboard.down(key))
        await self.wait(milliseconds)
        await self._within(self.playwright.keyboard.up(key))

    async def type(self, text: str) -> None:
        """Put text into the focused field as an input method does."""
        await self._within(self.playwright.keyboard.insert_text(text))

    async def resize(self, width: int, height: int) -> None:
        """Change the size of the window."""
        await self._within(self.playwright.set_viewport_size({"width": width, "height": height}))

    async def _within(self, awaitable: Awaitable[T]) -> T:
        job = asyncio.ensure_future(awaitable)
        try:
            if not (await asyncio.wait([job], timeout=LOOK_S))[0]:
                await self._watch(job)
            return await job
        except PageHangError:
            raise
        except Exception as error:
            if self.crashed:
                raise PageCrashError("the page's process died") from error
            raise
        finally:
            job.cancel()

    async def _watch(self, job: asyncio.Future[Any]) -> None:
        """Wait for an answer while the page works for it; raises PageHangError if it has, or if it does nothing."""
        begun, before, since = self._worked.seconds(), 0.0, time.monotonic()
        while not (await asyncio.wait([job], timeout=LOOK_S))[0]:
            worked, moved = self._worked.seconds(), self._worked.seconds() + self._painted.seconds()
            if worked - begun > STEP_TIMEOUT_S:
                raise PageHangError(f"no answer within {STEP_TIMEOUT_S:g} s of CPU time")
            if moved != before:
                before, since = moved, time.monotonic()
            elif time.monotonic() - since > STEP_TIMEOUT_S:
                raise PageHangError(f"no answer, and nothing done for {STEP_TIMEOUT_S:g} s")

    def _on_console(self, kind: str, text: str) -> None:
        # What could not be loaded is counted where it was refused.
        if kind == "error" and not text.startswith(("Failed to load resource", "Access to ")):
            self.console_errors.append(text[:500])

    async def _on_dialog(self, dialog: Dialog) -> None:
        with contextlib.suppress(Exception):
            await (dialog.accept("text") if dialog.type == "prompt" else dialog.accept())

    def _on_chooser(self, chooser: FileChooser) -> None:
        job = asyncio.ensure_future(self._give_file(chooser))
        self._choosing.add(job)
        job.add_done_callback(self._choosing.discard)

    async def _give_file(self, chooser: FileChooser) -> None:
        accepted = await chooser.element.get_attribute("accept") or ""
        kind = next(
            (one for one in _UPLOADS if one in accepted), "image" if "*" in accepted or not accepted else "text"
        )
        name, mime, content = _UPLOADS[kind]
        with contextlib.suppress(Exception):  # The field may be gone by now.
            await chooser.set_files({"name": name, "mimeType": mime, "buffer": content})

    async def _on_popup(self, popup: PlaywrightPage) -> None:
        if popup is not self.playwright:
            with contextlib.suppress(Exception):
                await popup.close()

    async def _on_request(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        main = _is_main(route.request)
        path = unquote(address.path).lstrip("/")
        with contextlib.suppress(Exception):
            if main and self._served:
                # "No content" leaves the page as it is.
                self.left.append(f"{route.request.url} {route.request.post_data or ''}"[:2000])
                await route.fulfill(status=204)
            elif main:
                self._served = True
                await route.fulfill(body=_document(self.page), content_type="text/html; charset=utf-8")
            elif delivered := await self._delivered(route.request.url):
                # Fonts, modules and scripts with `crossorigin` are loaded only where the answer allows everybody.
                headers = {"Access-Control-Allow-Origin": "*", "Content-Type": delivered.content_type}
                await route.fulfill(body=delivered.body, headers=headers)
            elif f"{address.scheme}://{address.netloc}" != ORIGIN:
                self.refused.append(route.request.url[:200])
                await route.abort("blockedbyclient")
            elif path in self.page.files:
                kind = _TYPES.get(path.rpartition(".")[2].lower(), "text/plain")
                await route.fulfill(body=self.page.files[path], content_type=f"{kind}; charset=utf-8")
            else:
                if path != "favicon.ico":
                    self.missing.append(path)
                await route.fulfill(status=404, body="")

    async def _delivered(self, url: str) -> Delivered | None:
        if url.startswith(f"{ORIGIN}/") or not url.startswith(("https://", "http://")):
            return None
        return await asyncio.to_thread(deliver, url, self.page.packages)

    async def _on_web_socket(self, socket: WebSocketRoute) -> None:
        self.refused.append(socket.url[:200])
        await socket.close()


def _is_main(request: Request) -> bool:
    """Whether a request is for the document of a window; Playwright throws for a new window, which has no frame yet."""
    from playwright.async_api import Error

    try:
        return request.is_navigation_request() and request.frame.parent_frame is None
    except Error:
        return True


def _document(page: Page) -> str:
    if page.kind == "html":
        return without_integrity(page.html)
    image = page.html[max(page.html.find("<svg"), 0) :]
    head = '<meta charset="utf-8"><title>Image</title><style>body { margin: 0 } svg { max-width: 100% }</style>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{image}</body></html>'
