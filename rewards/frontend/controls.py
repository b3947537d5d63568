"""Do the controls of a page do anything that a person would notice, each something of its own?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import unquote_plus

from evolpo.rewards.frontend.browser import BrowserThread
from evolpo.rewards.frontend.effects import noticeable
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.tab import Tab
from evolpo.rewards.frontend.twins import HOVER_MS, SETTLE_MS, Twins

MAX_RELOADS = 4
"""Times a page is loaded anew because an earlier control covered or removed a later one."""
MAX_COMPARED = 4
"""Controls with which one is compared that seems to do the same as they."""
KEYS = ("Enter", "Space", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "d", "w", "Escape")
USED = ("button", "jump", "empty", "nowhere", "file", "drag", "gesture")
"""Kinds of controls that are clicked or dragged; the others are filled, or lead away."""
NO_KEY = "F8"
"""What the twin gets instead: a key without a meaning."""

Verdict = Literal["works", "dead", "covered", "neutral", "same"]
"""`neutral`: a field that takes its value, as any does, or a link to elsewhere or to what is in the window already.

`same`: does what all others do.
"""


@dataclass(frozen=True, slots=True)
class Chance:
    """What goes before using a control that did nothing before."""

    click: Sequence[int] = ()
    """Controls that are clicked first, in both loads."""
    moved: Collection[str] = ()
    """Places that others change: something that goes on there by itself may be stopped."""
    select: bool = False
    """Whether what stands in an editable text is selected first."""


FIRST = Chance()


@dataclass(frozen=True, slots=True)
class ControlReport:
    """What became of the controls."""

    total: int
    """Visible enabled controls on the page."""
    verdicts: Mapping[str, Verdict]
    """Number and name of each control used -> verdict; `fields` are all that is typed into, `keys` the keyboard."""

    @property
    def judged(self) -> int:
        """Controls that either work or do not."""
        return sum(verdict != "neutral" for verdict in self.verdicts.values())

    @property
    def working(self) -> int:
        """Controls that work."""
        return sum(verdict == "works" for verdict in self.verdicts.values())


async def use_controls(browser: BrowserThread, page: Page) -> tuple[ControlReport, Tab, bytes]:
    """Fill every field, then use every control; what is dead gets two more chances.

    One right after clicks on the nearest controls that work, before and after it: "Reset" does nothing before "Up". And
    one with empty fields: what was typed into a search may hide what a button acts on. Besides it is seen whether
    fields are used, and whether controls that change the same places make a difference between them.

    Returns the report, the load in which everything was used (closed, for its errors) and its last screenshot, a PNG.
    """
    async with Twins(browser, page) as twins:
        names = [f"{index} {await twins.tab.evaluate(f'probe.name({index})')}" for index in range(len(twins.kinds))]
        fields, senders = await _use_fields(twins)
        verdicts: dict[int, Verdict] = {}
        effects: dict[int, frozenset[str]] = {}
        for index, taken in twins.filled.items():
            verdicts[index] = "neutral" if taken else "dead"
        verdicts |= dict.fromkeys(senders, "works")
        await _use_all(twins, verdicts, effects)
        keyboard = twins.types & {"keydown", "keyup", "keypress"} and await _press_keys(twins)
        await _part(twins, verdicts, effects)
        report = {names[index]: verdicts.get(index, "neutral") for index in range(len(names))}
        if fields is not None:
            report["fields"] = fields
        if twins.types & {"keydown", "keyup", "keypress"} and (keyboard or not (effects or fields)):
            report["keys"] = "works" if keyboard else "dead"
        return ControlReport(twins.total, report), twins.tab, await twins.tab.screenshot()


async def _use_all(twins: Twins, verdicts: dict[int, Verdict], effects: dict[int, frozenset[str]]) -> None:
    """Use every control that is no field, and give a second and third chance to those that do nothing."""
    buttons = [index for index in twins.of_kind(*USED) if index not in verdicts]
    for index in buttons:
        verdicts[index], effects[index] = await _use(twins, index)
    working = [index for index in buttons if verdicts[index] == "works"]
    moved = {change.partition(" ")[2] for index in working for change in effects[index]}
    for index in buttons:
        for before in _before(index, working):
            if verdicts[index] not in ("works", "neutral"):
                verdicts[index], effects[index] = await _use(twins, index, Chance(before, moved))
    stuck = [index for index in buttons if verdicts[index] not in ("works", "neutral")]
    if stuck and twins.of_kind("text"):
        twins.filled = {}
        await twins.reload()
        for index in stuck:
            verdicts[index], effects[index] = await _use(twins, index, Chance(select=True))


def _before(index: int, working: list[int]) -> list[list[int]]:
    """What may be clicked before a control: the nearest that work, before and after it; else the first that works."""
    nearest = [other for other in working if other < index][-1:] + [other for other in working if other > index][:1]
    first = working[:1]
    return [one for one in (nearest, first if first != nearest else []) if one]


async def _use(twins: Twins, index: int, chance: Chance = FIRST) -> tuple[Verdict, frozenset[str]]:
    """Use a control in the first load only, compare, then use it in the twin too, to be in step again."""
    for attempt in range(2):
        for other in chance.click:
            if twins.kinds[other] == "drag":
                await twins.drag(other)
            else:
                await twins.click(other)
        places = await twins.locate(index)
        if places is not None:
            await asyncio.gather(twins.tab.hover(**places[0]), twins.twin.hover(**places[1]))
            # What has the focus by a script looks otherwise than by a click: it must not be the click that gives it.
            await twins.both(lambda tab: tab.evaluate(f"probe.focus({index})"))
            if chance.select:
                await twins.both(lambda tab: tab.evaluate("probe.selectEdited()"))
            await twins.wait(HOVER_MS)
            looked = await twins.states()
            if not looked[0].differing(looked[1]):
                break
        if attempt == 1 or twins.reloads >= MAX_RELOADS:
            break
        await twins.reload()
    if places is None:
        return "covered", frozenset()
    own = {twins.places[index]} if twins.kinds[index] == "file" else set()
    place, other_place = places

    async def click(tab: Tab) -> None:
        await tab.click(**place)

    async def spare(tab: Tab) -> None:
        """A click on no control; the mouse ends where a click on the control leaves it."""
        if empty := await tab.evaluate(f"probe.empty({index})"):
            await tab.click(**empty)
            await tab.hover(**other_place)

    async def focus(tab: Tab) -> None:
        await tab.evaluate(f"probe.focus({index})")

    effect: frozenset[str] = frozenset()
    if twins.kinds[index] not in ("drag", "gesture"):
        effect = await twins.try_alone(click, spare, focus, own, looked)
        if not effect and chance.moved:
            effect = await twins.stopped(chance.moved)
        if twins.kinds[index] == "empty":  # What `href="#"` does by itself.
            effect -= {"scroll"}
        await twins.twin.click(**other_place)
        await twins.wait(HOVER_MS)
    if not effect:
        effect = await _hover(twins, index)
    for gesture in await twins.tab.evaluate(f"probe.gestures({index})") if not effect else ():
        effect |= await _gesture(twins, index, gesture)
    if not effect and await twins.tab.evaluate(f"probe.moves({index})"):
        effect = await _drag(twins, index)
    # A file is taken; the place that a link leads to may be in the window already.
    idle: Verdict = "neutral" if twins.kinds[index] in ("file", "jump") else "dead"
    return "works" if effect else idle, effect


async def _hover(twins: Twins, index: int) -> frozenset[str]:
    """The mouse over a control, in the twin over nothing: a menu opens, a chart says more; colours do not count."""
    places = await twins.locate(index)
    if places is None:
        return frozenset()

    async def hover(tab: Tab) -> None:
        await tab.hover(**places[0])

    async def spare(tab: Tab) -> None:
        await tab.hover(1, 1)

    await twins.both(lambda tab: tab.hover(1, 1))
    await twins.both(lambda tab: tab.evaluate("probe.blur()"))
    await twins.wait(HOVER_MS)
    effect = await twins.try_alone(hover, spare)
    await twins.twin.hover(**places[1])
    await twins.wait(HOVER_MS)
    return frozenset(change for change in effect if _opens(change))


def _opens(change: str) -> bool:
    """Whether a change by the mouse alone is a control that came, or something else on a canvas."""
    kind, _, place = change.partition(" ")
    return kind == "canvas" or (
        kind == "new" and place.rpartition("/")[2].rstrip("0123456789") in ("a", "button", "input")
    )


async def _gesture(twins: Twins, index: int, gesture: str) -> frozenset[str]:
    """A double click, a click of the right button or a turn of the wheel, where the twin has the mouse there only."""
    places = await twins.locate(index)
    if places is None:
        return frozenset()

    async def spare(tab: Tab) -> None:
        await tab.hover(**places[1])

    effect = await twins.try_alone(lambda tab: tab.gesture(gesture, **places[0]), spare)
    await twins.twin.gesture(gesture, **places[1])
    await twins.wait(HOVER_MS)
    return effect - {"scroll"}


async def _drag(twins: Twins, index: int) -> frozenset[str]:
    route, other_route = await twins.both(lambda tab: tab.evaluate(f"probe.route({index})"))

    async def drag(tab: Tab) -> None:
        await tab.drag(**route)

    async def spare(tab: Tab) -> None:
        await tab.hover(other_route["right"], other_route["down"])

    effect = await twins.try_alone(drag, spare)
    await twins.twin.drag(**other_route)
    await twins.wait(HOVER_MS)
    return effect


async def _use_fields(twins: Twins) -> tuple[Verdict | None, Sequence[int]]:
    """Does it matter what is typed? The first load's fields are filled, the twin's are not.

    Whatever differs then, at once or after it was sent (by Enter or a button): it shows up, it is counted, or nothing
    is sent without it.

    Returns the verdict, None where nothing can be typed and nothing happens, and buttons that send what was typed.
    """
    text = twins.of_kind("text")
    if not text and not twins.of_kind("set", "check"):
        return None, ()
    own = frozenset(twins.places[index] for index in twins.of_kind("text", "set", "check"))
    before, _ = await twins.states()
    await twins.fill(twins.tab)
    typed = await twins.tab.evaluate("probe.typed()")
    after, other = await twins.states()
    if noticeable(before, after, other, own):
        await twins.fill(twins.twin)
        return "works", ()
    if not text:
        await twins.fill(twins.twin)
        return None, ()
    ways: list[int | None] = [None, *await twins.tab.evaluate("probe.senders()")]
    verdict: Verdict = "dead"
    senders: list[int] = []
    for way in ways:
        before, before_other = await twins.states()
        left, left_other = len(twins.tab.left), len(twins.twin.left)
        await twins.both(partial(_send, way=way, field=text[-1]))
        await twins.wait(SETTLE_MS)
        after, other = await twins.states()
        sent = " ".join(map(unquote_plus, twins.tab.left[left:]))
        goes = any(text in sent for text in typed) and len(twins.twin.left) == left_other
        if goes or noticeable(before, after, other, own) or noticeable(before_other, other, after, own):
            verdict = "works"
            sender = await twins.tab.evaluate(f"probe.submitter({text[-1]})") if way is None else way
            senders = [sender] if sender >= 0 else []
            break
    # In step again, at best without loading anew: the twin sends it too, and what was emptied is filled again.
    await twins.fill(twins.twin)
    if verdict == "works":
        await _send(twins.twin, way, text[-1])
        await twins.wait(SETTLE_MS)
        await twins.type()
        after, other = await twins.states()
    if verdict == "dead" or after.differing(other):
        await twins.reload()
    return verdict, senders


async def _send(tab: Tab, way: int | None, field: int) -> None:
    """Press Enter in a field, or click a button."""
    if way is None:
        await tab.evaluate(f"probe.focus({field})")
        await tab.press("Enter")
    elif place := await tab.evaluate(f"probe.locate({way})"):
        await tab.click(**place)


async def _part(twins: Twins, verdicts: dict[int, Verdict], effects: Mapping[int, frozenset[str]]) -> None:
    """Controls that change the same places must not all do the same: each of two is clicked in one of the loads.

    Where more than half of those that work make no difference between them, they are `same`.
    """
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    working = [index for index, verdict in verdicts.items() if verdict == "works" and effects.get(index)]
    for index in working:
        groups[effects[index]].append(index)
    group = max(groups.values(), key=len, default=[])
    if len(group) < 2 or 2 * len(group) <= len(working):
        return
    alike = 0
    for other in [index for index in reversed(group) if index != group[0]][:MAX_COMPARED]:
        made = await _compare(twins, group[0], other, "scroll" in effects[group[0]])
        if made == "different":
            return
        alike += made == "alike"
    if alike:
        verdicts |= dict.fromkeys(group, "same")


async def _compare(twins: Twins, index: int, other: int, scrolls: bool) -> Literal["alike", "different", "nothing"]:
    """What comes of clicking one control in the first load, another one in the twin."""
    before, spared = await twins.states()
    if before.differing(spared):
        await twins.reload()
        before, spared = await twins.states()
    if not await twins.click(index, other):
        return "nothing"
    # Where the mouse and the focus are must make no difference.
    await twins.both(lambda tab: tab.hover(1, 1))
    await twins.both(lambda tab: tab.evaluate("probe.blur()"))
    after, after_other = await twins.states()
    apart = noticeable(before, after, after_other) | noticeable(spared, after_other, after)
    changed = noticeable(before, after, before) - {"scroll"}
    await twins.click(other, index)  # In step again, if the order does not matter.
    if apart - {"scroll"} or (scrolls and not after.near(after_other)):
        return "different"
    return "alike" if changed or scrolls else "nothing"


async def _press_keys(twins: Twins) -> bool:
    """Whether keys that no control has the focus for do anything but scroll."""
    await twins.both(lambda tab: tab.evaluate("probe.blur()"))
    before, spared = await twins.states()
    noise = before.differing(spared)
    for chord in await twins.tab.evaluate("probe.chords()"):
        await asyncio.gather(twins.tab.press(chord), twins.twin.press(NO_KEY))
    opened = noticeable(before, *await twins.states(), frozenset(noise)) - {"scroll"}
    for key in (*await twins.tab.evaluate("probe.word()"), *KEYS):
        await asyncio.gather(twins.tab.hold(key, HOVER_MS), twins.twin.hold(NO_KEY, HOVER_MS))
    await twins.both(lambda tab: tab.evaluate("scrollTo(0, 0)"))
    after, other = await twins.states()
    return bool(opened or noticeable(before, after, other, frozenset(noise)) - {"scroll"})
