"""Do the controls of a page do anything? Each is used in one load of the page and spared in a twin load.

Both loads get the same mouse movements, focus, keys and time, and chance is seeded, so what differs between them after
a click is the doing of the click. The twin gets a click on no control in its place: what any click does is no merit of
the control. Changes that no user can see do not count.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from evolpo.rewards.frontend.browser import BrowserThread
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.tab import Tab

T = TypeVar("T")

MAX_CONTROLS = 16
"""Controls used on a page; of more, this many evenly spaced ones."""
MAX_RELOADS = 4
"""Times a page is loaded anew because an earlier control covered or removed a later one."""
HOVER_MS = 100
SETTLE_MS = 500
"""Milliseconds of the page's own time that a control has to show what it does."""
KEYS = ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "Enter", "Space", "Escape")

Verdict = Literal["works", "dead", "covered", "neutral"]
"""`neutral`: a field that takes its value, as any does, or a link that leads away.

A link to "#" or to a place that does not exist works only if it does something that such a link does not do by itself.
"""


@dataclass(frozen=True, slots=True)
class ControlReport:
    """What became of the controls."""

    total: int
    """Visible enabled controls on the page."""
    verdicts: Mapping[str, Verdict]
    """Number and name of each control used -> verdict."""

    @property
    def judged(self) -> int:
        """Controls that either work or do not."""
        return sum(verdict != "neutral" for verdict in self.verdicts.values())

    @property
    def working(self) -> int:
        """Controls that work."""
        return sum(verdict == "works" for verdict in self.verdicts.values())


class _Twins:
    """Two loads of one page that are kept in step."""

    def __init__(self, browser: BrowserThread, page: Page) -> None:
        self._browser = browser
        self._page = page
        self._stack = AsyncExitStack()
        self._pixels = False
        self.reloads = -1
        self.kinds: list[str] = []
        self.total = 0
        self.types: set[str] = set()
        self.fields: dict[int, Verdict] = {}
        self.fill = True
        """Whether a load begins with all fields filled."""

    async def __aenter__(self) -> _Twins:
        await self.reload()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reload(self) -> None:
        """Load the page twice anew, find its controls and, if wanted, fill its fields."""
        await self._stack.aclose()
        self.reloads += 1
        self.tab = await self._stack.enter_async_context(self._browser.open(self._page))
        self.twin = await self._stack.enter_async_context(self._browser.open(self._page))
        self.types, _ = await self.both(lambda tab: tab.listeners())
        await self.wait(SETTLE_MS)
        found, _ = await self.both(lambda tab: tab.evaluate(f"probe.controls({MAX_CONTROLS})"))
        self.kinds, self.total = found["kinds"], found["total"]
        graphics, _ = await self.both(lambda tab: tab.evaluate("probe.graphics()"))
        self._pixels = any(one["kind"] in ("canvas", "video") for one in graphics)
        fills = {"text": _fill, "set": _set, "check": _check}
        for index, kind in enumerate(self.kinds):
            if kind in fills and self.fill:
                taken, _ = await self.both(partial(fills[kind], index))
                self.fields[index] = "neutral" if taken else "dead"
        await self.wait(HOVER_MS)

    async def both(self, action: Callable[[Tab], Awaitable[T]]) -> tuple[T, T]:
        """Do the same in both loads."""
        first, second = await asyncio.gather(action(self.tab), action(self.twin))
        return first, second

    async def wait(self, milliseconds: int) -> None:
        """Let time pass in both."""
        await self.both(lambda tab: tab.wait(milliseconds))

    async def difference(self) -> set[str]:
        """Places at which the two loads look different; reactions such as dialogs are one of them."""
        mine, other = await self.both(self._state)
        return {key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)}

    async def _state(self, tab: Tab) -> dict[str, str]:
        state: dict[str, str] = await tab.evaluate("probe.state()")
        state[":reactions"] = "\n".join(tab.reactions)
        if self._pixels:
            state[":pixels"] = hashlib.sha256(await tab.screenshot()).hexdigest()
        return state


async def use_controls(browser: BrowserThread, page: Page) -> tuple[ControlReport, Tab, bytes]:
    """Fill every field, then use every control; what is dead gets two more chances.

    One with empty fields: what was typed into a search may hide what a button acts on. And one right after a click on
    the nearest control that works: "Reset" does nothing before "Up".

    Returns the report, the load in which everything was used (closed, for its errors) and its last screenshot, a PNG.
    """
    async with _Twins(browser, page) as twins:
        names = [f"{index} {await twins.tab.evaluate(f'probe.name({index})')}" for index in range(len(twins.kinds))]
        verdicts: dict[int, Verdict] = dict(twins.fields)
        buttons = [index for index, kind in enumerate(twins.kinds) if kind in ("button", "jump", "empty")]
        for index in buttons:
            verdicts[index] = await _use(twins, index)
        stuck = [index for index in buttons if verdicts[index] != "works"]
        if stuck and "text" in twins.kinds:
            twins.fill = False
            await twins.reload()
            for index in stuck:
                verdicts[index] = await _use(twins, index)
        working = [index for index in buttons if verdicts[index] == "works"]
        for index in buttons:
            if working and verdicts[index] != "works":
                await _click_both(twins, min(working, key=lambda other: abs(other - index)))
                verdicts[index] = await _use(twins, index)
        report = {names[index]: verdicts.get(index, "neutral") for index in range(len(names))}
        if twins.types & {"keydown", "keyup", "keypress"}:
            pressed = await _press_keys(twins)
            if pressed or not buttons:
                report["keys"] = "works" if pressed else "dead"
        return ControlReport(twins.total, report), twins.tab, await twins.tab.screenshot()


async def _use(twins: _Twins, index: int) -> Verdict:
    """Click a control in the first load only, compare, then click it in the twin too, to be in step again."""
    for attempt in range(2):
        place, other_place = await twins.both(lambda tab: tab.evaluate(f"probe.locate({index})"))
        if place is not None and other_place is not None:
            await asyncio.gather(twins.tab.hover(**place), twins.twin.hover(**other_place))
            await twins.both(lambda tab: tab.evaluate(f"probe.focus({index})"))
            await twins.wait(HOVER_MS)
            noise = await twins.difference()
            if not noise:
                break
        if attempt == 1 or twins.reloads >= MAX_RELOADS:
            break
        await twins.reload()
    if place is None or other_place is None:
        return "covered"
    await asyncio.gather(twins.tab.click(**place), twins.twin.evaluate("probe.placebo()"))
    await twins.wait(SETTLE_MS)
    effect = await twins.difference() - noise
    if twins.kinds[index] == "empty":  # What `href="#"` does by itself.
        effect -= {":address", ":scroll"}
    await twins.twin.click(**other_place)
    await twins.wait(HOVER_MS)
    return "works" if effect else "dead"


async def _click_both(twins: _Twins, index: int) -> None:
    place, other_place = await twins.both(lambda tab: tab.evaluate(f"probe.locate({index})"))
    if place is not None and other_place is not None:
        await asyncio.gather(twins.tab.click(**place), twins.twin.click(**other_place))
        await twins.wait(SETTLE_MS)


async def _fill(index: int, tab: Tab) -> bool:
    before = await tab.evaluate(f"probe.value({index})")
    await tab.evaluate(f"probe.focus({index}); probe.select({index})")
    await tab.type(await tab.evaluate(f"probe.text({index})"))
    return bool(await tab.evaluate(f"probe.value({index})") != before)


async def _set(index: int, tab: Tab) -> bool:
    return bool(await tab.evaluate(f"probe.set({index})"))


async def _check(index: int, tab: Tab) -> bool:
    before = await tab.evaluate(f"probe.value({index})")
    place = await tab.evaluate(f"probe.locate({index})")
    if place is None:
        return False
    await tab.click(**place)
    # A radio button that was chosen before stays chosen.
    return bool(await tab.evaluate(f"probe.value({index})") != before) or ",true," in before


async def _press_keys(twins: _Twins) -> bool:
    """Whether keys that no control has the focus for do anything but scroll."""
    await twins.both(lambda tab: tab.evaluate("document.activeElement?.blur()"))
    noise = await twins.difference()
    for key in KEYS:
        await twins.tab.press(key)
        await twins.wait(HOVER_MS)
    await twins.both(lambda tab: tab.evaluate("scrollTo(0, 0)"))
    return bool(await twins.difference() - noise)
