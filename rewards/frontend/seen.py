"""What a person can read on a page: texts that are really painted, those of controls apart, kinds of things."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolpo.rewards.frontend.tab import VIEWPORT, Tab, script

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_HEIGHT = 4000
"""CSS pixels of a page, from its top, that are looked at; what lies farther down is not read."""
MIN_INK = 30
"""Grey levels, of 255, that the pixels of a text must span: 1.3 : 1 on white, where WCAG asks for 4.5 : 1."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there to be read and used."""

    texts: tuple[str, ...] = ()
    """Readable blocks of text, in the order of the document, those of controls left out."""
    controls: tuple[str, ...] = ()
    """Readable texts on and beside controls: of buttons, links, labels, and what stands in empty fields."""
    kinds: frozenset[str] = frozenset()
    """Kinds of things that are visible: see `relevance.KINDS`."""


async def look(tab: Tab) -> Seen:
    """Read a page in its present state.

    Nothing counts that is hidden, cut off, covered, transparent, below 9 pixels, off the page, or has no ink: what is
    painted there spans less than `MIN_INK` grey levels. Names, titles and descriptions that only machines read are no
    text.
    """
    try:
        found = await tab.evaluate(script("seen.js"))
    except RuntimeError:  # What makes the reading fail is the page, and nobody can read it.
        return Seen()
    height = max(1, min(int(found["height"]), MAX_HEIGHT))
    pixels = _grey(await tab.picture(VIEWPORT[0], height))
    blocks = [block for block in found["blocks"] if any(_inked(pixels, box) for box in block["boxes"])]
    return Seen(
        tuple(block["text"] for block in blocks if not block["control"]),
        tuple(block["text"] for block in blocks if block["control"]),
        frozenset(found["kinds"]),
    )


def _grey(png: bytes) -> npt.NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))  # [height, width]


def _inked(pixels: npt.NDArray[np.uint8], box: Sequence[float]) -> bool:
    left, top, right, bottom = (max(0, round(value)) for value in box)
    part = pixels[top:bottom, left:right]
    return part.size > 0 and int(part.max()) - int(part.min()) >= MIN_INK
