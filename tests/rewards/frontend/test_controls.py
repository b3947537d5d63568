import pytest
from documents import document
from paired_pages import CLOSED_SHADOW, HOVER_MENU, LATE, LOG_IN, ODD_NAMES, PAIRS, PICTURES, TEMPLATES
from used_pages import CHEATS, CLOBBERED, FAULTS, HONEST

from evolpo.rewards.frontend.browser import shared_browser
from evolpo.rewards.frontend.controls import use_controls
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.function import exercise


async def used(html):
    """Name of each control -> verdict."""

    async def work(browser):
        report, _, _ = await use_controls(browser, Page(html))
        return report

    return (await shared_browser().run(work, 120.0)).verdicts


@pytest.fixture(scope="module")
def verdicts(run):
    """Of all pages, made at the same time."""
    pages = {**CHEATS, **HONEST, "log in": LOG_IN, "hover menu": HOVER_MENU, "closed shadow": CLOSED_SHADOW}
    for name, both in PAIRS.items():
        pages |= {f"{name}, alive": both[0], f"{name}, dead": both[1]}
    return dict(zip(pages, run(*(used(html) for html in pages.values())), strict=True))


@pytest.mark.parametrize("name", sorted(CHEATS.keys() - {"fake form", "same toast"}))
def test_what_nobody_notices_is_no_effect(verdicts, name):
    assert "works" not in verdicts[name].values(), verdicts[name]


def test_a_form_must_use_what_is_typed(verdicts):
    assert verdicts["fake form"]["fields"] == "dead"
    assert {verdicts[name]["fields"] for name in ("validation", "filter and sort", "slider")} == {"works"}


def test_controls_that_all_do_the_same_do_nothing(verdicts):
    for name in ("counts clicks", "random text"):
        assert set(verdicts[name].values()) == {"same"}
    # After the first click there is nothing left to do for the others.
    assert list(verdicts["same toast"].values()) == ["works", "dead", "dead"]


@pytest.mark.parametrize("name", HONEST)
def test_controls_of_honest_pages_work(verdicts, name):
    assert set(verdicts[name].values()) <= {"works", "neutral"}, verdicts[name]
    assert "works" in verdicts[name].values()


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_person_would_do_is_done_and_its_absence_seen(verdicts, name):
    alive, dead = verdicts[f"{name}, alive"], verdicts[f"{name}, dead"]
    assert set(alive.values()) <= {"works", "neutral"}, alive
    assert "works" in alive.values()
    assert "dead" in dead.values(), dead


def test_a_button_that_enter_stands_for_works(verdicts):
    assert verdicts["log in"]["2 button Log in"] == verdicts["log in"]["fields"] == "works"


def test_a_menu_that_opens_by_the_mouse_works(verdicts):
    assert verdicts["hover menu"] == {"0 a Products": "works"}


def test_closed_shadow_trees_are_seen_as_a_person_sees_them(verdicts):
    assert verdicts["closed shadow"] == {"0 button Up": "works"}


def test_a_page_that_loads_for_a_while_is_looked_at_again(run):
    [report] = run(exercise(Page(LATE)))
    assert report.content == 1
    assert "Cake" in report.seen.texts


def test_pictures_from_elsewhere_cost_little(run):
    [report] = run(exercise(Page(PICTURES)))
    assert sum(message.startswith("refused") for message in report.messages) == 8
    assert report.terms["errors"] == 0.8


def test_a_module_without_a_line_of_its_own_for_its_exports_is_one(run):
    [report] = run(exercise(Page(TEMPLATES)))
    assert report.content == 1
    assert not report.messages


def test_names_of_fields_that_the_audit_fails_on_leave_it_out(run):
    [report] = run(exercise(Page(ODD_NAMES)))
    assert report.failure == ""
    assert "accessibility" not in report.terms
    assert report.terms["controls"] == 1


def test_a_page_that_makes_the_reward_fail_is_at_fault_itself(run):
    pages = [html.replace("</body>", f"<script>{script}</script></body>") for html, script in FAULTS.values()]
    reports = dict(zip(FAULTS, run(*(exercise(Page(html)) for html in pages)), strict=True))
    assert any("nowhere is not defined" in one for one in reports["timer throws"].messages)
    assert reports["timer throws"].terms["errors"] == 0.5
    assert reports["clock is gone"].score < 0.75


def test_names_of_fields_hide_nothing_from_the_probe(run):
    [report] = run(exercise(Page(CLOBBERED)))
    assert report.failure == ""
    assert {name.partition(" ")[2]: verdict for name, verdict in report.controls.verdicts.items()} | {} == {
        "input": "neutral", "button Send": "works", "": "works",
    }  # fmt: skip


def test_automation_shows_nothing(run):
    html = document("<main><h1>Who</h1><p id='p'></p></main><script>p.textContent = `${navigator.webdriver}"
                    " ${/Headless/.test(navigator.userAgent)}`;</script>")  # fmt: skip

    async def read(browser):
        async with browser.open(Page(html)) as tab:
            return await tab.evaluate("document.querySelector('p').textContent")

    [text] = run(shared_browser().run(read, 60.0))
    assert text == "false false"
