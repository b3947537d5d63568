"""Checks that a data set carries with a prompt: steps to take on the page and what must be true after them.

In the metadata of a prompt, with selectors as Playwright has them (CSS, `text=Save`, `role=button[name="Save"]`):

    checks:
      - steps: [{fill: ["#new", "milk"]}, {press: Enter}, {click: "text=Add"}, {wait_ms: 500}]
        expect: [{count: ["li", 1]}, {text: ["li", "milk"]}, {no_errors: true}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolpo import InputError
from evolpo.rewards.frontend.browser import BrowserThread, shared_browser
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.tab import PageFaultError, Tab

ACTION_TIMEOUT_MS = 3000
"""Milliseconds until a step whose element is not there has failed."""
SETTLE_MS = 200
"""Milliseconds of the page's own time after each step."""
MAX_WAIT_MS = 60_000
MAX_TEXT = 2000
"""Characters of an element from which on it says no number: it may hold them all."""
_KEYS = {
    "Backquote", "Minus", "Equal", "Backslash", "Backspace", "Tab", "Delete", "Escape", "ArrowDown", "ArrowUp",
    "ArrowLeft", "ArrowRight", "End", "Enter", "Home", "Insert", "PageDown", "PageUp", "Space", "Shift",
    "Control", "Alt", "Meta", "ControlOrMeta",
    *(f"F{number}" for number in range(1, 13)),
}  # fmt: skip
DEADLINE_S = 60.0

STEPS: Mapping[str, tuple[type, ...]] = {
    "click": (str,),
    "hover": (str,),
    "fill": (str, str),
    "press": (str,),
    "select": (str, str),
    "wait_ms": (int,),
}
EXPECTATIONS: Mapping[str, tuple[type, ...]] = {
    "visible": (str,),
    "hidden": (str,),
    "text": (str, str),
    "count": (str, int),
    "value": (str, str),
    "attribute": (str, str, str),
    "no_errors": (bool,),
}
_ARGUMENTS = {
    "fill": "[selector, text]",
    "select": "[selector, value or label]",
    "text": "[selector, part of the text]",
    "count": "[selector, number]",
    "value": "[selector, value]",
    "attribute": "[selector, name, value]",
    "press": "a key",
    "wait_ms": f"milliseconds from 0 to {MAX_WAIT_MS}",
    "no_errors": "true",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One step or one expectation: its name and its arguments."""

    name: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name} {', '.join(map(repr, self.arguments))}"


@dataclass(frozen=True, slots=True)
class Check:
    """Steps on a freshly loaded page, and what is expected after the last of them."""

    steps: tuple[Action, ...]
    expect: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a check passed, and what failed first."""

    passed: bool
    reason: str = ""


def parse_checks(data: object, place: str = "metadata.checks") -> tuple[Check, ...]:
    """Checks from plain data, as JSON or YAML gives it. Raises InputError naming the place and the mend."""
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise InputError(f"{place}: is {type(data).__name__}; give a list of {{steps: [...], expect: [...]}}")
    return tuple(_check(one, f"{place}[{index}]") for index, one in enumerate(data))


def _check(data: object, place: str) -> Check:
    if not isinstance(data, Mapping):
        raise InputError(f"{place}: is {type(data).__name__}; give {{steps: [...], expect: [...]}}")
    if unknown := set(map(str, data)) - {"steps", "expect"}:
        raise InputError(f"{place}.{min(unknown)}: is unknown; a check has steps and expect")
    expect = _actions(data.get("expect", []), EXPECTATIONS, f"{place}.expect")
    if not expect:
        raise InputError(f"{place}.expect: is empty; expect at least one thing, e.g. {{no_errors: true}}")
    return Check(_actions(data.get("steps", []), STEPS, f"{place}.steps"), expect)


def _actions(data: object, known: Mapping[str, tuple[type, ...]], place: str) -> tuple[Action, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise InputError(f"{place}: is {type(data).__name__}; give a list")
    return tuple(_action(one, known, f"{place}[{index}]") for index, one in enumerate(data))


def _action(data: object, known: Mapping[str, tuple[type, ...]], place: str) -> Action:
    if not isinstance(data, Mapping) or len(data) != 1:
        raise InputError(f"{place}: {data!r} is not one name with its arguments, e.g. {{click: button}}")
    [(name, value)] = data.items()
    if name not in known:
        raise InputError(f"{place}.{name}: is unknown; known are {', '.join(known)}")
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    types = known[name]
    fits = len(given) == len(types) and all(type(one) is wanted for one, wanted in zip(given, types, strict=True))
    in_range = name != "wait_ms" or (fits and 0 <= given[0] <= MAX_WAIT_MS)
    if not fits or not in_range or (name == "no_errors" and given != (True,)):
        raise InputError(f"{place}.{name}: {value!r} does not fit; give {_ARGUMENTS.get(name, 'a selector')}")
    if name == "press" and (unknown := _unknown_key(given[0])):
        raise InputError(f"{place}.press: {unknown!r} is no key; give one such as a, Enter, ArrowDown or Control+K")
    return Action(name, given)


def _unknown_key(keys: str) -> str:
    """The first of some keys, joined by +, that there is not; empty if there are all."""
    named = re.findall(r"\+(?=$)|[^+]+", keys) or [keys]
    known = re.compile(r".|Key[A-Z]|Digit\d", re.DOTALL)
    return next((key for key in named if key not in _KEYS and not known.fullmatch(key)), "")


async def run_checks(page: Page, checks: Sequence[Check], deadline_s: float = DEADLINE_S) -> list[CheckResult]:
    """Run every check on a load of its own, within `deadline_s` seconds for all; one result a check.

    Raises:
        InputError: a selector that Playwright cannot parse; Chromium or Playwright is missing.
        TimeoutError: the browser did not answer, which is not the page's fault.
    """
    results: list[CheckResult] = []

    async def work(browser: BrowserThread) -> None:
        results.clear()
        for check in checks:
            async with browser.open(page) as tab:
                results.append(await _run_check(tab, check))

    try:
        await shared_browser().run(work, deadline_s)
    except PageFaultError as error:
        results += [CheckResult(False, f"the page hangs or crashes: {error}")] * (len(checks) - len(results))
    return results


async def _run_check(tab: Tab, check: Check) -> CheckResult:
    from playwright.async_api import Error

    await tab.wait(SETTLE_MS)
    for action in (*check.steps, *check.expect):
        try:
            if action.name in STEPS:
                await _step(tab, action)
            elif found := await _failure(tab, action):
                return CheckResult(False, f"expected {action}, found {found}")
        except Error as error:
            if "selector" in error.message and "pars" in error.message:
                raise InputError(f"metadata.checks: {action}: {error.message.splitlines()[0]}") from error
            return CheckResult(False, f"{action}: {error.message.splitlines()[0]}")
    return CheckResult(True)


async def _step(tab: Tab, action: Action) -> None:
    arguments = action.arguments
    if action.name == "press":
        await tab.press(arguments[0])
    elif action.name != "wait_ms":
        element = tab.playwright.locator(arguments[0]).first
        if action.name == "click":
            await element.click(timeout=ACTION_TIMEOUT_MS)
        elif action.name == "hover":
            await element.hover(timeout=ACTION_TIMEOUT_MS)
        elif action.name == "fill":
            await element.fill(arguments[1], timeout=ACTION_TIMEOUT_MS)
        else:
            await element.select_option(arguments[1], timeout=ACTION_TIMEOUT_MS)
    await tab.wait(arguments[0] if action.name == "wait_ms" else SETTLE_MS)


async def _failure(tab: Tab, action: Action) -> str:
    """What is true instead; empty if the expectation holds."""
    if action.name == "no_errors":
        errors = tab.uncaught + tab.console_errors
        return "; ".join(errors)[:300]
    selector, *wanted = action.arguments
    matching = tab.playwright.locator(selector)
    count = await matching.count()
    if action.name == "count":
        return "" if count == wanted[0] else str(count)
    if action.name in ("visible", "hidden"):
        visible = any([await matching.nth(index).is_visible() for index in range(count)])
        return (
            "" if visible == (action.name == "visible") else f"{count} elements, {'one' if visible else 'none'} visible"
        )
    if count == 0:
        return "no such element"
    element = matching.first
    if action.name == "value":
        value = await element.input_value(timeout=ACTION_TIMEOUT_MS)
        return "" if value == wanted[0] else repr(value)
    if action.name == "attribute":
        value = await element.get_attribute(wanted[0], timeout=ACTION_TIMEOUT_MS) or ""
        return "" if value == wanted[1] else repr(value)
    texts = await matching.all_inner_texts()
    said = " | ".join(text for text in texts if len(text) <= MAX_TEXT or not any(map(str.isdigit, wanted[0])))
    if wanted[0] in said:
        return ""
    longest = max(map(len, texts))
    return f"{longest} characters, which say every number" if longest > MAX_TEXT else repr(said[:300])
