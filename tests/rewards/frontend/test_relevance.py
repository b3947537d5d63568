"""Words and kinds of things that a prompt names, and what of a page a person can read."""

import asyncio

import pytest
from documents import document

from evolpo.rewards.frontend.browser import shared_browser
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.relevance import relevance
from evolpo.rewards.frontend.seen import Seen, look

PROMPT = (
    "Build a tip calculator: fields for the bill and the number of people, a slider for the tip, a button to reset."
)
HONEST = Seen(
    ("Tip calculator", "Each pays", "12.00"),
    ("Bill", "People", "Tip in percent", "Reset"),
    frozenset({"field", "slider", "button"}),
)


def test_what_was_asked_for_beats_all_else():
    good = relevance(PROMPT, HONEST, {"0 button Reset": "works"})
    assert good.value > 0.9
    assert good.missing == ("number",)
    other = relevance("A diary with a table of walks and a photo of each.", HONEST)
    assert (other.value, other.kinds) == (0, 0)
    assert set(other.missing) == {"diari", "walk", "a table", "a picture"}
    assert relevance("Write a simple and responsive web page.", HONEST).value == 1
    assert relevance(PROMPT, Seen()).value == 0


def test_words_without_things_to_use_are_worth_less():
    words = Seen(("Tip", "Calculator", "Bill", "People", "Number", "Reset"))
    assert relevance(PROMPT, words).value == pytest.approx(0.3 * 0.6)
    dead = {"0 button Reset": "dead", "1 input": "neutral"}
    one = Seen(HONEST.texts, ("Reset",), HONEST.kinds)
    assert relevance(PROMPT, one).operable == 0.75
    assert relevance(PROMPT, one, dead).operable == 0.5
    assert relevance(PROMPT, one, {"0 button Reset": "dead"}).operable == 0


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        "You asked me to build a tip calculator with fields for the bill and the number of people. Done!",
        "tip calculator, bill, people, number of people, slider, reset",
    ],
)
def test_a_prompt_said_again_counts_for_nothing(text):
    assert relevance(PROMPT, Seen((text,))).value == 0


def test_what_stands_in_quotation_marks_may_be_said():
    prompt = 'A page for a bakery with the headline "Fresh bread for the whole of Hill Street" and opening hours.'
    assert relevance(prompt, Seen(("Fresh bread for the whole of Hill Street", "Bakery"))).coverage > 0.5
    assert relevance("写一个园艺日记网页，记录番茄。", Seen(("园艺日记", "番茄"))).coverage > 0.3


HIDDEN = document("""<main><h1>Apples</h1><p id="p">Pears</p><button>Plums</button>
<label>Quince <input placeholder="Medlar"></label>
<p style="display: none">hidden1</p><p style="color: #fff">hidden2</p><p style="color: #fdfdfd">hidden3</p>
<p style="position: absolute; left: -9999px">hidden4</p><p style="font-size: 3px">hidden5</p>
<p style="opacity: 0.02">hidden6</p><p style="height: 0; overflow: hidden; margin: 0">hidden7</p>
<p style="color: transparent">hidden8</p><p style="clip-path: inset(50%)">hidden9</p>
<p style="position: absolute; width: 1px; height: 1px; overflow: hidden; white-space: nowrap">hidden10</p>
<p style="background: linear-gradient(#abc, #abc); color: #abc">hidden11</p>
<p style="transform: scale(0.01)">hidden12</p><p style="text-indent: -9999px">hidden13</p>
<img alt="hidden14" title="hidden15" width="1" height="1"><button title="hidden16" aria-label="hidden17">Figs</button>
<div style="position: relative; height: 30px"><p style="margin: 0">hidden18</p>
<div style="position: absolute; inset: 0; background: #eee"></div></div>
<p style="visibility: hidden">hidden19</p><p style="filter: opacity(0)">hidden20</p>
<textarea style="opacity: 0">hidden21</textarea><select style="opacity: 0"><option>hidden22</option></select>
<form><input name="parentElement" type="hidden"><input name="matches" type="hidden"><p>Cherries</p></form>
<img name="body" alt="hidden23"><table><tr><td>Grapes</td></tr></table>
<p style="margin-top: 1500px">Below</p></main>""")


def test_only_what_can_be_read_is_seen():
    async def work(browser):
        async with browser.open(Page(HIDDEN)) as tab:
            return await look(tab)

    seen = asyncio.run(shared_browser().run(work, 60))
    assert not [text for text in (*seen.texts, *seen.controls) if "hidden" in text]
    assert seen.texts == ("Apples", "Pears", "Cherries", "Grapes", "Below")
    assert seen.controls == ("Plums", "Quince", "Medlar", "Figs")
    assert {"button", "field", "table"} <= seen.kinds
    assert not {"select", "slider", "chart"} & seen.kinds
