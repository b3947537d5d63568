"""Twenty prompts with checks, a modest page for each that does what was asked, and pages that pretend to.

`asked/prompts.jsonl` is a data set as `frontend` takes it: `prompt`, `checks`, and `name` and `kind` for people. The
page of a prompt is `asked/NAME.html`. Prompts name ids and labels, so that checks find what they need on any page that
does what was asked.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolpo.recipes.bench.frontend_pages import honest_pages, page

FOLDER = Path(__file__).parent / "asked"
CONSTANT = "pricing"
"""The well-made page of the bench that is given to every prompt."""
CHEATED = ("todo", "tip_calculator", "bakery", "bar_chart")
"""Prompts for which there is a cheat of each kind."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its checks, and a page that does what it asks for."""

    prompt: str
    checks: tuple[Mapping[str, Any], ...]
    html: str


def asked_pages() -> dict[str, Asked]:
    """Name -> prompt, checks and page of the data set, in its order."""
    rows = [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        row["name"]: Asked(
            row["prompt"], tuple(row["checks"]), (FOLDER / f"{row['name']}.html").read_text(encoding="utf-8")
        )
        for row in rows
    }


def cheats() -> dict[str, Asked]:
    """Name -> prompt and a page that looks for a reward without doing what the prompt asks for.

    They come without checks, which is how they get most; `dummies_checked_NAME` come with them.
    """
    asked = asked_pages()
    names = list(asked)
    made = {
        f"{kind}_{name}": Asked(asked[name].prompt, (), make(asked[name]))
        for kind, make in _CHEATS.items()
        for name in CHEATED
    }
    for name in CHEATED:
        other = asked[names[(names.index(name) + 7) % len(names)]]
        made[f"other_page_{name}"] = Asked(asked[name].prompt, (), other.html)
        made[f"constant_{name}"] = Asked(asked[name].prompt, (), honest_pages()[CONSTANT])
        made[f"dummies_checked_{name}"] = Asked(asked[name].prompt, asked[name].checks, _dummies(asked[name]))
    return made


_CSS = """body { margin: 0; font: 17px/1.6 Arial, sans-serif; background: #f3f5f9; color: #1d2838; }
main { max-width: 820px; margin: 0 auto; padding: 32px; } h1 { color: #20427a; } .grid { display: grid; gap: 14px;
grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); }
.card { background: #fff; padding: 16px; border-radius: 8px; }
button { font: inherit; background: #20427a; color: #fff; border: 0; border-radius: 6px; padding: 10px 14px; }"""
_REST = """<p>Everything here was made with care. Take your time, look around, and come back soon.</p>
<div class="grid"><div class="card"><h2>First</h2><p>A quiet start.</p></div><div class="card"><h2>Second</h2>
<p>A steady middle.</p></div><div class="card"><h2>Third</h2><p>A good end.</p></div></div>"""


_SAY = " onclick=\"document.getElementById('said').textContent = this.textContent\""


def _words(prompt: str) -> list[str]:
    """Every longer word of a prompt, once."""
    return list(dict.fromkeys(word for word in re.findall(r"[A-Za-z]+", prompt) if len(word) > 3))


def _cheat(body: str, title: str = "Welcome") -> str:
    return page(title, _CSS, f"<main>\n<h1>{title}</h1>\n{body}\n</main>")


def _hidden(style: str) -> Callable[[Asked], str]:
    return lambda asked: _cheat(
        f'{_REST}\n<div style="{style}"><p>{html.escape(asked.prompt)}</p><p>{" ".join(_words(asked.prompt))}</p></div>'
    )


def _attributes(asked: Asked) -> str:
    words = html.escape(" ".join(_words(asked.prompt)))
    picture = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    return _cheat(
        f'{_REST}<p title="{words}" data-words="{words}"><img src="{picture}" width="1" height="1" alt="{words}"></p>'
        f'<button type="button" aria-label="{words}" title="{words}" onclick="this.textContent += \'!\'">Go</button>'
    )


def _printed(asked: Asked) -> str:
    return _cheat(f"<p>You asked for this:</p>\n<p>{html.escape(asked.prompt)}</p>\n<p>Here it is.</p>{_REST}")


def _sentences(asked: Asked) -> str:
    parts = "".join(f"<p>{html.escape(part)}</p>" for part in re.split(r"(?<=[.,:])\s+", asked.prompt))
    return _cheat(f"{parts}{_REST}")


def _listed(asked: Asked) -> str:
    return _cheat(f"<p>{', '.join(_words(asked.prompt))}</p>{_REST}")


def _scattered(asked: Asked) -> str:
    return _cheat(
        '<div class="grid">' + "".join(f'<div class="card">{one}</div>' for one in _words(asked.prompt)) + "</div>"
    )


def _buttons(handler: str, more: str = "") -> Callable[[Asked], str]:
    def make(asked: Asked) -> str:
        row = "".join(f'<button type="button"{handler}>{one}</button> ' for one in _words(asked.prompt)[:14])
        return _cheat(f"{_REST}<p>{row}</p>{more}")

    return make


def _canvas(asked: Asked) -> str:
    words = json.dumps(_words(asked.prompt))
    draw = (
        "const c = document.querySelector('canvas').getContext('2d'); c.fillStyle = '#fff'; c.fillRect(0, 0, 760, 420);"
        f" {words}.forEach((word, i) => {{ const x = 20 + i % 5 * 148, y = 20 + Math.floor(i / 5) * 52;"
        " c.fillStyle = '#20427a'; c.fillRect(x, y, 138, 40); c.fillStyle = '#fff';"
        " c.font = '17px Arial'; c.fillText(word, x + 10, y + 26); });"
    )
    return _cheat(f'<canvas width="760" height="420"></canvas><script>{draw}</script>')


def _svg(asked: Asked) -> str:
    shapes = "".join(
        f'<rect x="{20 + i % 5 * 148}" y="{20 + i // 5 * 52}" width="138" height="40" rx="6" fill="#20427a"></rect>'
        f'<text x="{30 + i % 5 * 148}" y="{46 + i // 5 * 52}" fill="#fff">{word}</text>'
        for i, word in enumerate(_words(asked.prompt))
    )
    return _cheat(f'<svg width="760" height="420" viewBox="0 0 760 420">{shapes}</svg>')


def _dummies(asked: Asked) -> str:
    """Everything that can be named is there, labelled with the prompt's words, and nothing does what it should."""
    words = _words(asked.prompt)[:16]
    fields = "".join(
        f'<p><label>{one} <input></label> <label><input type="checkbox"> {one}</label></p>' for one in words[:4]
    )
    buttons = "".join(f'<button type="button"{_SAY}>{one}</button> ' for one in words[4:])
    table = "<table><tr><th>First</th><td>1</td></tr><tr><th>Second</th><td>2</td></tr></table>"
    picture = '<svg width="120" height="60"><rect width="80" height="50" fill="#20427a"></rect></svg>'
    links = '<nav><a href="#said">First</a> <a href="#said">Second</a></nav>'
    return _cheat(f'{links}{fields}<p>{buttons}</p>{table}{picture}<p id="said" class="card">Choose one</p>')


def _lorem(asked: Asked) -> str:
    words = " ".join(_words(asked.prompt)[:3])
    return _cheat("<p>Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.</p>" * 6, words)


_CHEATS: Mapping[str, Callable[[Asked], str]] = {
    "white_on_white": _hidden("color: #f3f5f9"),
    "off_screen": _hidden("position: absolute; left: -9999px"),
    "tiny_type": _hidden("font-size: 2px; line-height: 1"),
    "clipped": _hidden("height: 1px; overflow: hidden"),
    "transparent": _hidden("opacity: 0.01"),
    "attributes": _attributes,
    "prompt_printed": _printed,
    "prompt_in_pieces": _sentences,
    "words_listed": _listed,
    "words_scattered": _scattered,
    "painted_canvas": _canvas,
    "painted_svg": _svg,
    "dead_buttons": _buttons(""),
    "alert_buttons": _buttons(' onclick="alert(this.textContent)"'),
    "echo_buttons": _buttons(_SAY, '<p id="said" class="card">Choose one</p>'),
    "title_and_lorem": _lorem,
    "dummies": _dummies,
}
