"""What stands on a screenshot, found from pixels alone: flat surfaces, lines of text, blocks.

Pages are mostly areas of one colour (or of a slow gradient) with small marks on them. So pixels whose surroundings
hardly change form *surfaces*; everything else is *ink*; connected ink of the size of letters is a glyph; glyphs side by
side on a quiet background are a line of text. All lengths are pixels, boxes are (left, top, right, bottom), ends open.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

MAX_WIDTH = 1600
"""Wider screenshots are taken for such of dense displays and halved, so that lengths stay CSS pixels."""
MAX_RATIO = 3
"""Of a screenshot of a whole page only the top is looked at, this many times as high as it is wide."""
FLAT = 8
"""Largest difference of a colour channel in 3 x 3 pixels of a surface, of 255: above noise, below the faintest text."""
MIN_SURFACE = 400
"""Pixels of the smallest surface; the inside of letters stays below."""
SMALL_SURFACE = 0.05
"""Share of the image up to which a surface is a thing on the page (button, picture), no ground for others."""
GLYPH_HEIGHT = (4, 72)
"""Heights of a letter; from a headline of about 100 pixels on, letters are shapes."""
QUIET_RIM = 0.5
"""Least share of flat surface in the rim of two pixels around a line of text; less is the texture of a picture."""
_EIGHT = np.ones((3, 3), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text, or a part of one."""

    box: tuple[int, int, int, int]
    glyph_height: float
    """Height that a fifth of its letters exceed: about that of capitals, 0.7 of the font size."""
    contrast: float
    """WCAG 2 contrast ratio of its strongest pixels against its background, 1 to 21."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.box[2] - self.box[0]

    @property
    def letters(self) -> float:
        """About how many letters it has: one is half a font size wide, the space behind it included."""
        return self.width / (0.7 * self.glyph_height)


@dataclass(frozen=True)
class Segments:
    """A screenshot and what stands on it."""

    pixels: Pixels
    """[H, W, 3], sRGB."""
    busy: Bools
    """[H, W]: near an edge of any kind."""
    edges: Bools
    """[H, W]: near a strong edge, more than 32 of 255 in 3 x 3 pixels."""
    lines: list[TextLine]
    surface_areas: Ints
    """Pixels of each surface."""
    content: Bools
    """[H, W]: text lines, pictures, buttons; not the surfaces that carry them."""

    @cached_property
    def blocks(self) -> Ints:
        """[N, 4] boxes of connected content: gaps below 9 pixels do not part, specks below 8 pixels are left out."""
        closed = ndimage.binary_dilation(self.content, np.ones((9, 9), dtype=bool))
        boxes = _boxes(ndimage.label(closed)[0])
        boxes += np.array([4, 4, -4, -4])
        return boxes[(boxes[:, 2] - boxes[:, 0] >= 8) & (boxes[:, 3] - boxes[:, 1] >= 4)]


def read_png(png: bytes) -> Pixels:
    """Pixels [H, W, 3] of a PNG file, what is transparent on white, brought to the size of CSS pixels.

    Raises:
        ValueError: no image, a damaged one, or one of less than 32 pixels on a side or more than 100 million in all.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as file:
            if min(file.size) < 32 or file.width * file.height > 100_000_000:
                raise ValueError(f"a screenshot of {file.width} x {file.height} pixels cannot be judged")
            layered = file.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow calls a broken PNG a SyntaxError.
        raise ValueError(f"the screenshot cannot be read: {error}") from error
    image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    if image.width > MAX_WIDTH:
        image = image.reduce(2 * -(-image.width // (2 * MAX_WIDTH)))
    return np.asarray(image)[: MAX_RATIO * image.width]


def segment(pixels: Pixels) -> Segments:
    """Find surfaces, text lines and content of a screenshot [H, W, 3]."""
    spread = (ndimage.maximum_filter(pixels, (3, 3, 1)) - ndimage.minimum_filter(pixels, (3, 3, 1))).max(axis=2)
    flat = spread <= FLAT
    labels, count = ndimage.label(flat)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    # The neighbours of a flat pixel have its colour, so a surface reaches one pixel farther than its flat pixels.
    surface = ndimage.binary_dilation((areas >= MIN_SURFACE)[labels], _EIGHT)
    if not surface.any():
        return Segments(pixels, ~flat, spread > 32, [], areas[:0], np.ones_like(flat))
    ink = _ink(pixels, surface)
    marks, _ = ndimage.label(ink)
    boxes = _boxes(marks)
    fill = np.bincount(marks.ravel(), minlength=len(boxes) + 1)[1:] / _areas(boxes)
    glyphs = boxes[_like_glyphs(boxes, fill)]
    lines = _text_lines(glyphs, pixels, ink, surface)
    small = (areas >= MIN_SURFACE) & (areas < SMALL_SURFACE * flat.size)
    content = ndimage.binary_dilation(small[labels], _EIGHT) | _solid(marks, boxes, fill)
    for line in lines:
        left, top, right, bottom = line.box
        content[top:bottom, left:right] = True
    return Segments(pixels, ~flat, spread > 32, lines, areas[areas >= MIN_SURFACE], content)


def contrast_ratio(first: Floats, second: Floats) -> Floats:
    """WCAG 2.2 contrast ratio of two relative luminances, (lighter + 0.05) / (darker + 0.05), 1 to 21."""
    lighter, darker = np.maximum(first, second), np.minimum(first, second)
    return np.asarray((lighter + 0.05) / (darker + 0.05))


def relative_luminance(colours: NDArray[Any]) -> Floats:
    """WCAG 2.2 relative luminance [...] of sRGB colours [..., 3] of 0 to 255."""
    scaled = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _ink(pixels: Pixels, surface: Bools) -> Bools:
    """What differs from the nearest surface, by more than a third of what stands out most in 7 x 7 pixels.

    So the gaps between letters are no ink, though too narrow to be flat, and anti-aliased rims do not join letters.
    """
    rows, columns = ndimage.distance_transform_edt(~surface, return_distances=False, return_indices=True)
    difference = np.abs(pixels.astype(np.int16) - pixels[rows, columns]).max(axis=2)
    return np.asarray(difference > np.maximum(FLAT, 0.35 * ndimage.maximum_filter(difference, 7)))


def _boxes(labels: NDArray[Any]) -> Ints:
    """[N, 4] boxes of the labelled parts 1 to N."""
    found = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(labels)]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _areas(boxes: Ints) -> Ints:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _like_glyphs(boxes: Ints, fill: Floats) -> Bools:
    """[N] whether a mark has the size of a letter, or of a word whose letters touch, and is no frame."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    low, high = GLYPH_HEIGHT
    return np.asarray((height >= low) & (height <= high) & (width <= 8 * height) & (fill >= 0.16))


def _solid(marks: NDArray[Any], boxes: Ints, fill: Floats) -> Bools:
    """[H, W] marks that fill at least a seventh of their box: pictures and icons, but neither frames nor hairlines."""
    solid = np.zeros(len(boxes) + 1, dtype=bool)
    solid[1:] = (7 * fill >= 1) & (np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= 4)
    return np.asarray(solid[marks])


def _text_lines(glyphs: Ints, pixels: Pixels, ink: Bools, surface: Bools) -> list[TextLine]:
    """Glyphs that stand side by side, closer than about the space between two words."""
    joined = np.zeros(ink.shape, dtype=bool)
    for left, top, right, bottom in glyphs:
        reach = int(0.35 * (bottom - top)) + 2
        joined[top:bottom, max(left - reach, 0) : right + reach] = True
    labels, count = ndimage.label(joined)
    if not count:
        return []
    owner = labels[(glyphs[:, 1] + glyphs[:, 3] - 1) // 2, (glyphs[:, 0] + glyphs[:, 2] - 1) // 2]
    found = (_text_line(glyphs[owner == one], pixels, ink, surface) for one in range(1, count + 1))
    return [line for line in found if line is not None]


def _text_line(glyphs: Ints, pixels: Pixels, ink: Bools, surface: Bools) -> TextLine | None:
    """The line of these glyphs; None without a common baseline or a quiet ground, as in the texture of a picture."""
    bottoms, heights = glyphs[:, 3], glyphs[:, 3] - glyphs[:, 1]
    glyph_height = float(np.quantile(heights, 0.8))
    on_baseline = np.abs(bottoms - np.median(bottoms)) <= max(1.0, 0.12 * glyph_height)
    if len(glyphs) < 3 or on_baseline.mean() < 0.5 or (heights >= 0.5 * glyph_height).mean() < 0.5:
        return None
    left, top = glyphs[:, :2].min(axis=0)
    right, bottom = glyphs[:, 2:].max(axis=0)
    rows, columns = slice(max(top - 2, 0), bottom + 2), slice(max(left - 2, 0), right + 2)
    inside, inked, quiet = pixels[rows, columns], ink[rows, columns], surface[rows, columns]
    rim = np.concatenate([quiet[:2].ravel(), quiet[-2:].ravel(), quiet[:, :2].ravel(), quiet[:, -2:].ravel()])
    if inked.mean() > 0.6 or rim.mean() < QUIET_RIM:
        return None
    behind = relative_luminance(np.median(inside[~inked], axis=0))
    ratios = contrast_ratio(relative_luminance(inside[inked]), behind)
    box = (int(left), int(top), int(right), int(bottom))
    return TextLine(box, glyph_height, float(np.quantile(ratios, 0.95)))
