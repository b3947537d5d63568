"""Two loads of one page that are kept in step, so that what differs between them after a click is the click's doing.

Both get the same mouse movements, keys and time, and chance is seeded. Where one gets a click on a control, its twin
gets one on no control in its place: what any click does is no merit of the control.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from evolpo.rewards.frontend.browser import BrowserThread
from evolpo.rewards.frontend.effects import State, noticeable, thumbnail
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.tab import Tab

T = TypeVar("T")
Action = Callable[[Tab], Awaitable[None]]

MAX_CONTROLS = 16
"""Controls used on a page; of more, this many evenly spaced ones."""
HOVER_MS = 100
SETTLE_MS = 500
"""Milliseconds of the page's own time that a control has to show what it does."""
SLOW_MS = 2000
"""What one has in addition that shows nothing by then: clocks count seconds, spinners turn for two."""


class Twins:
    """Two loads of one page."""

    def __init__(self, browser: BrowserThread, page: Page) -> None:
        self._browser = browser
        self._page = page
        self._stack = AsyncExitStack()
        self.reloads = -1
        self.kinds: list[str] = []
        self.places: list[str] = []
        self.total = 0
        self.types: set[str] = set()
        self.filled: dict[int, bool] = {}
        """Number of each field that was filled in both loads -> whether it took another value."""

    async def __aenter__(self) -> Twins:
        await self.reload()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reload(self) -> None:
        """Load the page twice anew, find its controls and fill its fields if they were filled before."""
        await self._stack.aclose()
        self.reloads += 1
        self.tab = await self._stack.enter_async_context(self._browser.open(self._page))
        self.twin = await self._stack.enter_async_context(self._browser.open(self._page))
        self.types, _ = await self.both(lambda tab: tab.listeners())
        await self.wait(SETTLE_MS)
        found, _ = await self.both(lambda tab: tab.evaluate(f"probe.controls({MAX_CONTROLS})"))
        self.kinds, self.places, self.total = found["kinds"], found["places"], found["total"]
        if self.filled:
            await self.fill()

    def of_kind(self, *kinds: str) -> list[int]:
        """Numbers of the controls of these kinds."""
        return [index for index, kind in enumerate(self.kinds) if kind in kinds]

    async def fill(self, *tabs: Tab) -> None:
        """Fill every field, in both loads if none are given."""
        ways = {"text": _type, "set": _set, "check": _check}
        for index in self.of_kind(*ways):
            action = partial(ways[self.kinds[index]], index)
            self.filled[index] = all(await asyncio.gather(*map(action, tabs or (self.tab, self.twin))))
        await self.wait(HOVER_MS)

    async def type(self) -> None:
        """Type into every text field of both loads again."""
        for index in self.of_kind("text"):
            await self.both(partial(_type, index))
        await self.wait(HOVER_MS)

    async def both(self, action: Callable[[Tab], Awaitable[T]]) -> tuple[T, T]:
        """Do the same in both loads."""
        first, second = await asyncio.gather(action(self.tab), action(self.twin))
        return first, second

    async def wait(self, milliseconds: int) -> None:
        """Let time pass in both."""
        await self.both(lambda tab: tab.wait(milliseconds))

    async def states(self) -> tuple[State, State]:
        """What can be seen of both."""
        return await self.both(self.state)

    async def state(self, tab: Tab) -> State:
        """What can be seen of one; a canvas that cannot be read, such as of WebGL, is looked at from outside."""
        raw = await tab.evaluate("probe.state()")
        if raw["boxes"]:
            window = np.asarray(Image.open(io.BytesIO(await tab.screenshot())).convert("RGB"))
            for place, corners in raw["boxes"].items():
                left, top, right, bottom = (max(0, edge) for edge in corners)
                part = window[top:bottom, left:right]
                raw["canvases"][place] = thumbnail(part) if part.size else None
        return State.of(raw, tab.downloads)

    async def locate(self, index: int) -> tuple[dict[str, float], dict[str, float]] | None:
        """Where a control is in both; None if it is gone or covered in one of them."""
        place, other = await self.both(lambda tab: tab.evaluate(f"probe.locate({index})"))
        return None if place is None or other is None else (place, other)

    async def click(self, index: int, other: int | None = None) -> bool:
        """Click a control in both, or `other` in the twin; False if it cannot be reached."""
        places = await self.locate(index)
        other_place = places and places[1]
        if places is not None and other is not None:
            other_place = await self.twin.evaluate(f"probe.locate({other})")
        if places is None or other_place is None:
            return False
        await asyncio.gather(self.tab.click(**places[0]), self.twin.click(**other_place))
        await self.wait(SETTLE_MS)
        return True

    async def drag(self, index: int) -> None:
        """Drag a control in both."""
        routes = await self.both(lambda tab: tab.evaluate(f"probe.route({index})"))
        await asyncio.gather(*(tab.drag(**route) for tab, route in zip((self.tab, self.twin), routes, strict=True)))
        await self.wait(SETTLE_MS)

    async def try_alone(
        self,
        act: Action,
        spare: Action,
        follow: Action | None = None,
        ignore: Iterable[str] = (),
        looked: tuple[State, State] | None = None,
    ) -> frozenset[str]:
        """Act on the first load, do what `spare` and `follow` do to the twin; what would a person notice of the act?

        What changes by `spare` does not count, but what changes by `follow`, which makes the twin alike, does. `looked`
        is what can be seen before, if that is known.
        """
        before, spared = looked or await self.states()
        noise = before.differing(spared)
        await asyncio.gather(act(self.tab), spare(self.twin))
        at_once = await self.state(self.twin)  # Time stands still: what has changed is what `spare` did.
        if follow is not None:
            await follow(self.twin)
        ignored = frozenset(noise | at_once.differing(spared) | set(ignore))
        for milliseconds in (SETTLE_MS, SLOW_MS):
            await self.wait(milliseconds)
            after, other = await self.states()
            if found := noticeable(before, after, other, ignored):
                break
        return found

    async def stopped(self, moved: Iterable[str]) -> frozenset[str]:
        """What goes on by itself in the twin alone, at one of these places: what was done last stopped it."""
        before, before_other = await self.states()
        await self.wait(SETTLE_MS + SLOW_MS)
        after, other = await self.states()
        goes_on = noticeable(before_other, other, before_other) - noticeable(before, after, before)
        return frozenset(change for change in goes_on if change.partition(" ")[2] in set(moved))


async def _type(index: int, tab: Tab) -> bool:
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
