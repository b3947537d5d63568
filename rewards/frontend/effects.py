"""What a person would notice between two looks at a page, as `probe.state` takes them.

Compared is what can be seen, not the document: text that can be read, what fields hold, colours, places and canvases.
Elements are known by their looks, since a page may put anything before, after or around them. Changes too small to be
noticed are none; where the line is drawn is our choice, no source gives one.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOVED = 8
"""Pixels from which on something has moved or changed its size."""
AREA = 64
"""Square pixels that something must have for its coming, going or colour to be noticed."""
COLOUR = 24
"""Difference in one of red, green and blue (0 to 255) of an area; twice that of text, which has little of it."""
OPACITY = 0.15
SCROLLED = 100
"""Pixels from which on the window shows another part of the page."""
THUMBNAIL = (48, 32)
"""Dots of a canvas that are looked at, across and down."""
DOTS = 4
"""Dots of a canvas that must change, each by `DOT`."""
DOT = 4
"""Sixty-fourths of the range from black to white."""


@dataclass(frozen=True, slots=True)
class Look:
    """One visible element."""

    path: str
    """Place in the document."""
    name: str
    text: str
    """Own text that can be read, or what the field holds."""
    box: tuple[int, int, int, int]
    """Left, top, width and height on the page in CSS pixels, what is cut off left out."""
    ink: tuple[int, ...] | None
    """Colour of the text: red, green, blue."""
    back: tuple[int, ...]
    """Colour behind the text."""
    edge: tuple[int, ...] | None
    """Colour of the border."""
    opacity: float
    other: str
    """Pictures, shadows, shapes and the like."""
    paints: bool
    """Whether there is anything to see but what lies behind."""

    @classmethod
    def of(cls, raw: Sequence[Any]) -> Look:
        """From what the probe gives."""
        path, name, text, box, ink, back, edge, opacity, other, paints = raw
        left, top, width, height = box
        return cls(
            path, name, text, (left, top, width, height), ink and tuple(ink), tuple(back), edge and tuple(edge),
            opacity, other, paints,
        )  # fmt: skip

    @property
    def area(self) -> int:
        """Square pixels."""
        return self.box[2] * self.box[3]


@dataclass(frozen=True, slots=True)
class State:
    """What can be seen of a page."""

    looks: tuple[Look, ...]
    canvases: Mapping[str, str | None]
    """Place -> a letter a dot; None for what cannot be read."""
    scroll: tuple[float, float]
    fullscreen: bool
    downloads: int = 0

    @classmethod
    def of(cls, raw: Mapping[str, Any], downloads: int = 0) -> State:
        """From what the probe gives."""
        across, down = raw["scroll"]
        looks = tuple(map(Look.of, raw["looks"]))
        return cls(looks, raw["canvases"], (across, down), raw["fullscreen"], downloads)

    def near(self, other: State) -> bool:
        """Whether both windows show the same part of the page."""
        return all(abs(one - two) < SCROLLED for one, two in zip(self.scroll, other.scroll, strict=True))

    def differing(self, other: State) -> set[str]:
        """Places at which the two look different in any way."""
        mine, others = set(self.looks), set(other.looks)
        places = {look.path for look in mine ^ others}
        places |= {
            place
            for place in self.canvases.keys() | other.canvases.keys()
            if _redrawn(self.canvases.get(place), other.canvases.get(place))
        }
        return places


def noticeable(before: State, after: State, other: State, ignore: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a person would notice that `after` has and neither `before` nor `other` has; empty if it is nothing.

    Each as a short text: what kind of change, at which place.

    Args:
        before: the page before the click.
        after: the page after it.
        other: a page that was spared the click.
        ignore: places where changes do not count.
    """
    kept = {_key(look) for look in other.looks}
    now = [look for look in _without(after.looks, before.looks) if _key(look) not in kept and look.path not in ignore]
    gone = [look for look in _without(before.looks, after.looks) if look.path not in ignore]
    changes = _changes(gone, now, kept, moves=after.scroll == before.scroll)
    found = {f"{kind} {look.path}" for kind, look in changes}
    ways = zip(after.scroll, before.scroll, other.scroll, strict=True)
    scrolled = any(abs(end - start) >= SCROLLED and abs(end - spared) >= SCROLLED for end, start, spared in ways)
    if scrolled:
        found.add("scroll")
    if after.fullscreen and not before.fullscreen and not other.fullscreen:
        found.add("fullscreen")
    if after.downloads > before.downloads and after.downloads > other.downloads:
        found.add("download")
    for place, drawn in after.canvases.items():
        others = (before.canvases.get(place), other.canvases.get(place))
        if place not in ignore and drawn and all(_redrawn(one, drawn) for one in others):
            found.add(f"canvas {place}")
    return frozenset(found)


def _without(looks: Iterable[Look], others: Iterable[Look]) -> list[Look]:
    """Looks that the others lack, wherever in the document they stand."""
    left = Counter(_key(look) for look in others)
    found = []
    for look in looks:
        key = _key(look)
        if left[key] > 0:
            left[key] -= 1
        else:
            found.append(look)
    return found


def _key(look: Look) -> tuple[object, ...]:
    return look.name, look.text, look.box, look.ink, look.back, look.edge, look.opacity, look.other


def _changes(
    gone: Sequence[Look], now: Sequence[Look], kept: set[tuple[object, ...]], moves: bool
) -> list[tuple[str, Look]]:
    """(kind, look) of what a person would notice: elements are paired by what they look like, else by place."""
    found: list[tuple[str, Look]] = []
    pairs, lost, new = _paired(gone, now)
    for old, look in pairs:
        kind = _change(old, look, moves)
        if kind:
            found.append((kind, look))
    found += [("new", look) for look in new if _shows(look)]
    found += [("gone", look) for look in lost if _shows(look) and _key(look) in kept]
    return found


def _paired(gone: Sequence[Look], now: Sequence[Look]) -> tuple[list[tuple[Look, Look]], list[Look], list[Look]]:
    pairs: list[tuple[Look, Look]] = []
    lost, new = list(gone), list(now)
    by_looks: dict[tuple[object, ...], list[Look]] = defaultdict(list)
    for look in lost:
        by_looks[look.name, look.text, look.ink, look.back, look.other].append(look)
    unpaired = []
    for look in new:
        same = by_looks[look.name, look.text, look.ink, look.back, look.other]
        if same:
            nearest = min(same, key=partial(_distance, look))
            same.remove(nearest)
            pairs.append((nearest, look))
        else:
            unpaired.append(look)
    lost = [look for looks in by_looks.values() for look in looks]
    by_path = {(look.path, look.name): look for look in lost}
    new = []
    for look in unpaired:
        old = by_path.pop((look.path, look.name), None)
        if old is None:
            new.append(look)
        else:
            pairs.append((old, look))
    return pairs, list(by_path.values()), new


def _distance(one: Look, other: Look) -> int:
    return sum(abs(a - b) for a, b in zip(one.box, other.box, strict=True))


def _change(old: Look, new: Look, moves: bool) -> str:
    """What kind of change a person would notice in one element; empty for none."""
    if differs_in_words(old.text, new.text):
        return "text"
    if not (old.paints or new.paints) or max(old.area, new.area) < AREA:
        return ""
    if _apart(old.back, new.back) >= COLOUR or _apart(old.ink, new.ink) >= 2 * COLOUR:
        return "colour"
    if _apart(old.edge, new.edge) >= COLOUR or abs(old.opacity - new.opacity) >= OPACITY or old.other != new.other:
        return "style"
    from_side = 0 if moves else 2
    if any(abs(a - b) >= MOVED for a, b in zip(old.box[from_side:], new.box[from_side:], strict=True)):
        return "moved"
    return ""


def _apart(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> int:
    if one is None or other is None:
        return 0 if one is other else 255
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _shows(look: Look) -> bool:
    """Whether the coming or going of an element is noticed."""
    return bool(_words(look.text)) or (look.paints and look.area >= AREA and min(look.box[2:]) >= 3)


def _words(text: str) -> str:
    """Letters, numbers and symbols, with one space where there is anything else; nothing that is invisible."""
    plain = unicodedata.normalize("NFKC", text)
    kinds = ((char, unicodedata.category(char)) for char in plain)
    return " ".join("".join(char if kind[0] in "LNSM" else " " for char, kind in kinds if kind != "Cf").split())


def differs_in_words(one: str, other: str) -> bool:
    """Whether two texts differ by more than punctuation, spaces, invisible characters or one letter within a word."""
    first, second = _words(one), _words(other)
    if first == second:
        return False
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    end = 0
    while end < min(len(first), len(second)) - start and first[-1 - end] == second[-1 - end]:
        end += 1
    parts = [text[start : len(text) - end] for text in (first, second)]
    if max(map(len, parts)) > 1 or any(part.isdigit() for part in parts):
        return True
    around = first[max(start - 1, 0) : start] + first[len(first) - end : len(first) - end + 1 if end else None]
    return not any(char.isalpha() for char in around)


def thumbnail(picture: npt.NDArray[np.uint8]) -> str:
    """A canvas as the probe gives those that it can read, from a picture of it, [height, width, 3]."""
    import numpy as np
    from PIL import Image

    red, green, blue = np.moveaxis(np.asarray(Image.fromarray(picture).resize(THUMBNAIL, 4), dtype=np.float64), -1, 0)
    grey = np.rint((red + 2 * green + blue) / 16).astype(int) + 48  # 4 is PIL's box filter.
    return "".join(map(chr, grey.ravel()))


def _redrawn(old: str | None, new: str | None) -> bool:
    if old is None or new is None or len(old) != len(new):
        return old is not new
    return sum(abs(ord(a) - ord(b)) >= DOT for a, b in zip(old, new, strict=True)) >= DOTS
