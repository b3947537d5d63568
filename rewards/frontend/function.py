"""Does the page work? It is run in Chromium, looked at, used, measured at three widths and audited."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evolpo.rewards.frontend.browser import BrowserThread, shared_browser
from evolpo.rewards.frontend.controls import ControlReport, use_controls
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.seen import Seen, look
from evolpo.rewards.frontend.tab import (
    ORIGIN,
    VIEWPORT,
    PageCrashError,
    PageFaultError,
    PageHangError,
    Tab,
    script,
)
from evolpo.rewards.frontend.twins import MAX_CONTROLS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEADLINE_S = 120.0
USE_SHARE = 0.6
"""Share of the deadline for using the controls; a page too slow for that gets `UNUSED` for them, not 0 for all."""
UNUSED = 0.5
WIDTHS = (1280, 768, 375)
"""Widths of the window in CSS pixels at which nothing should stick out: desktop, tablet, telephone."""
REFUSED = 0.25
"""What addresses that are refused count for together, in errors: the page cannot know that there is no network."""
PASS_SCORE = 0.5
"""From here on the stage is passed."""
MAX_AUDITED = 5000
"""Elements up to which a page is audited with axe-core, which takes minutes for 200,000; more leave the term out."""
LATE_MS = 1500
"""Milliseconds after which a page is looked at again that has little to show."""
FULL_CONTENT = 4
"""Separate things to see (texts, fields, shapes of a picture) from which on a page is not called empty."""
MIN_DETAIL = 0.001
"""Share of edge pixels from which on a picture shows something; a gradient has none."""
MIN_PAINTED = 0.005
"""The same for a window without text; the sides of one plain box make 0.002."""
WEIGHTS = {
    "errors": 0.3,
    "controls": 0.3,
    "layout": 0.15,
    "keyboard": 0.1,
    "accessibility": 0.1,
    "styles": 0.05,
}
"""Share of each term; a term that does not apply leaves its share to the others."""
IMPACTS = {"critical": 0.25, "serious": 0.15, "moderate": 0.08, "minor": 0.04}
"""What a violated axe-core rule costs of the term `accessibility`, by its impact."""
_AXE = """axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
  .then(({violations}) => violations.map(({id, impact}) => [id, impact]))"""


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What the page did. A page with a `failure` has score 0 and nothing else may be set."""

    terms: Mapping[str, float] = field(default_factory=dict)
    """Terms that apply, each 0 to 1; see `WEIGHTS`."""
    content: float = 0.0
    """0 to 1: whether there is something to see; the factor of all terms."""
    failure: str = ""
    """Why nothing can be judged: the page hangs, crashes, is blank or makes judging itself fail."""
    controls: ControlReport | None = None
    messages: tuple[str, ...] = ()
    """Errors, refused addresses and missing files, each once."""
    violations: tuple[tuple[str, str], ...] = ()
    """axe-core rules violated, with their impact."""
    overflow: Mapping[int, int] = field(default_factory=dict)
    """Width of the window -> pixels that stick out to the right."""
    screenshots: tuple[bytes, ...] = ()
    """PNG at load, half a second later, and after everything was used."""
    seen: Seen = field(default_factory=Seen)
    """What was there to be read and used, half a second after load."""

    @property
    def score(self) -> float:
        """Content times the weighted mean of the terms that apply, 0 to 1."""
        if self.failure or not self.terms:
            return 0.0
        weight = sum(WEIGHTS[name] for name in self.terms)
        return self.content * sum(WEIGHTS[name] * value for name, value in self.terms.items()) / weight

    @property
    def metrics(self) -> dict[str, float]:
        """Every term and the counts behind it."""
        counts: dict[str, float] = {"content": self.content, "messages": len(self.messages)}
        counts["violations"] = len(self.violations)
        if self.controls is not None:
            counts |= {"controls_total": self.controls.total, "controls_judged": self.controls.judged}
        return {**self.terms, **counts}


async def exercise(
    page: Page, declarations: Sequence[tuple[str, str]] = (), deadline_s: float = DEADLINE_S
) -> FunctionReport:
    """Run a page and use it.

    The terms: `errors` is 1 / (1 + n) with n distinct uncaught errors, unhandled rejections, errors on the console,
    missing files and broken images, and `REFUSED` if any addresses were refused. `controls` is the share that works of
    those that can be judged (see `use_controls`; at most 16). `layout` is the mean over three widths of 1 if nothing
    sticks out to the right, else of what is left of 0.5 after the share of the width that does, less twice the share of
    the lines of text that run into another text. `keyboard` is the share of controls that Tab reaches.
    `accessibility` is 1 less `IMPACTS` for every violated rule of axe-core (WCAG 2.1, levels A and AA).
    `styles` is 1 less five times the share of CSS declarations that Chromium does not know. `content` counts visible,
    legible texts between 8 and 72 pixels that stay when time passes, fields, and pictures with detail, up to four.

    Args:
        page: the page.
        declarations: (property, value) of its style sheets, as `check_syntax` finds them.
        deadline_s: seconds for all of it.

    Raises:
        InputError: Chromium or Playwright is missing.
        TimeoutError: the browser did not answer, which is not the page's fault.
    """

    async def work(browser: BrowserThread) -> FunctionReport:
        return await _exercise(browser, page, declarations, USE_SHARE * deadline_s)

    try:
        return await shared_browser().run(work, deadline_s)
    except PageHangError as error:
        return FunctionReport(failure=f"the page hangs: {error}")
    except PageCrashError as error:
        return FunctionReport(failure=f"the page crashes: {error}")
    except PageFaultError as error:
        return FunctionReport(failure=f"the page cannot be judged: {error}")


async def _exercise(
    browser: BrowserThread, page: Page, declarations: Sequence[tuple[str, str]], use_s: float
) -> FunctionReport:
    terms: dict[str, float] = {}
    async with browser.open(page) as tab:
        at_load = await tab.screenshot()
        await tab.find_step()
        page = replace(page, step_ms=tab.step_ms)
        await tab.wait(467)
        content, screenshot = await _content(tab)
        if content < 1:  # What it shows may only be that it loads.
            await tab.wait(LATE_MS)
            later = await _content(tab)
            content, screenshot = later if later[0] > content else (content, screenshot)
        if content == 0:
            return FunctionReport(failure="the page is blank", screenshots=(at_load, screenshot))
        seen = await look(tab)
        unknown = await tab.evaluate(f"probe.unsupported({json.dumps(list(declarations))})")
        if declarations:
            terms["styles"] = max(0.0, 1 - 5 * len(unknown) / len(declarations))
        reached = await _tab_reach(tab)
        if reached is not None:
            terms["keyboard"] = reached
        broken = await tab.evaluate("probe.brokenImages()")
        violations: tuple[tuple[str, str], ...] = ()
        if await tab.evaluate("probe.elements()") <= MAX_AUDITED:
            # axe-core fails where a form has a field named like a property of elements.
            with contextlib.suppress(RuntimeError):
                await tab.evaluate(script("axe.min.js"))
                violations = tuple((rule, impact or "minor") for rule, impact in await tab.evaluate(_AXE))
                terms["accessibility"] = max(0.0, 1 - sum(IMPACTS[impact] for _, impact in violations))
        overlapping = float(await tab.evaluate("probe.overlaps()"))
        overflow = await _overflow(tab)
        fits = sum(_fit(excess, width) for width, excess in overflow.items()) / len(overflow)
        terms["layout"] = max(0.0, fits - 2 * overlapping)
    try:
        async with asyncio.timeout(use_s):
            controls, used, after_use = await use_controls(browser, page)
    except TimeoutError:
        controls, used, after_use = ControlReport(0, {}), tab, screenshot
        terms["controls"] = UNUSED
    if controls.judged:
        terms["controls"] = controls.working / controls.judged
    messages = _messages(tab, used)
    refused = sum(message.startswith("refused: ") for message in messages)
    faults = len(messages) - refused + max(0, broken - refused)
    terms["errors"] = 1 / (1 + faults + REFUSED * (refused > 0))
    screenshots = (at_load, screenshot, after_use)
    return FunctionReport(terms, content, "", controls, messages, violations, overflow, screenshots, seen)


async def _content(tab: Tab) -> tuple[float, bytes]:
    """How much there is to see, 0 to 1, and the screenshot on which it was seen."""
    screenshot = await tab.screenshot()
    pixels = _grey(screenshot)
    before: dict[str, str] = await tab.evaluate("probe.content()")
    await tab.wait(500)
    after: dict[str, str] = await tab.evaluate("probe.content()")
    things = len({text for place, text in before.items() if after.get(place) == text})
    for picture in await tab.evaluate("probe.graphics()"):
        if picture["kind"] == "svg":
            things += min(picture["shapes"], FULL_CONTENT)
        else:
            left, top, width, height = (max(0, round(value)) for value in picture["box"])
            things += FULL_CONTENT * (_detail(pixels[top : top + height, left : left + width]) > MIN_DETAIL)
    if not before and not await tab.evaluate("probe.written()"):
        things += FULL_CONTENT * (_detail(pixels) > MIN_PAINTED)  # A picture painted by style sheets.
    return min(1.0, things / FULL_CONTENT), screenshot


def _grey(png: bytes) -> npt.NDArray[np.int16]:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=np.int16)  # [height, width]


def _detail(pixels: npt.NDArray[np.int16]) -> float:
    """Share of pixels that differ from the one to their left by more than a tenth of the range: none in gradients."""
    import numpy as np

    if pixels.shape[0] == 0 or pixels.shape[1] < 2:
        return 0.0
    return float((np.abs(np.diff(pixels, axis=1)) > 25).mean())


async def _tab_reach(tab: Tab) -> float | None:
    """Share of the controls that get the focus by the Tab key; None without controls."""
    await tab.listeners()
    found = await tab.evaluate(f"probe.controls({MAX_CONTROLS})")
    expected: set[int] = set(await tab.evaluate("probe.expectedByTab()"))
    if not expected or found["total"] > MAX_CONTROLS:
        return None
    reached: set[int] = set()
    for _ in range(MAX_CONTROLS + 4):
        if expected <= reached:
            break
        await tab.press("Tab")
        reached.add(await tab.evaluate("probe.active()"))
    return len(expected & reached) / len(expected)


async def _overflow(tab: Tab) -> dict[int, int]:
    excess = {}
    for width in WIDTHS:
        await tab.resize(width, VIEWPORT[1])
        await tab.wait(100)
        excess[width] = int(await tab.evaluate("probe.overflow()"))
    return excess


def _fit(excess: int, width: int) -> float:
    """1 if at most two pixels stick out, which rounding makes; else what is left of 0.5 after the share that does."""
    return 1.0 if excess <= 2 else max(0.0, 0.5 - excess / width)


def _messages(*tabs: Tab) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for tab in tabs:
        kinds: list[tuple[str, Sequence[Any]]] = [
            ("uncaught", tab.uncaught),
            ("console", tab.console_errors),
            ("refused", tab.refused),
            ("missing", tab.missing),
        ]
        found |= {f"{kind}: {text}".replace(ORIGIN, ""): None for kind, texts in kinds for text in texts}
    return tuple(found)
