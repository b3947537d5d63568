"""The pages of the bench, its figures by hand, and one small run with the real browser."""

import json

import pytest
from html5lib import HTMLParser

from evolpo import InputError
from evolpo.recipes.bench.frontend import BenchFrontendConfig, bench_frontend, figures, tasks
from evolpo.recipes.bench.frontend_asked import asked_pages, cheats
from evolpo.recipes.bench.frontend_odd import odd_pages
from evolpo.recipes.bench.frontend_pages import ATTACKS, DEGRADATIONS, honest_pages, page_prompts
from evolpo.rewards import Score
from evolpo.rewards.frontend.assertions import parse_checks
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.syntax import check_syntax

PAGES = honest_pages()


def elements(html, name):
    found = HTMLParser(namespaceHTMLElements=False).parse(html)
    return list(found.iter(name))


def test_there_are_enough_pages_and_pairs():
    assert len(PAGES) * len(DEGRADATIONS) >= 48
    assert len([name for name in PAGES if name.startswith("plain_")]) >= 3
    assert {"blank", "flat_gradient", "giant_text", "hidden_text", "infinite_loop"} <= set(ATTACKS)
    assert {"sleep", "network_fetch", "random_churn", "text_to_judge"} <= set(ATTACKS)


@pytest.mark.parametrize("name", PAGES)
def test_degradations_change_what_they_should_and_parse(name):
    html = PAGES[name]
    copies = {kind: worse(html) for kind, worse in DEGRADATIONS.items()}
    assert len({html, *copies.values()}) == 1 + len(DEGRADATIONS)
    for kind, copy in copies.items():
        assert HTMLParser(strict=True).parse(copy) is not None
        assert [e.text for e in elements(copy, "h1")] == [e.text for e in elements(html, "h1")]
        buttons = [len(elements(page, "button")) for page in (copy, html)]
        assert buttons[0] == buttons[1], kind
    assert not elements(copies["without_css"], "style")
    assert all("style" not in e.attrib for e in elements(copies["without_css"], "*"))
    dead = copies["dead_buttons"]
    assert not [key for e in elements(dead, "*") for key in e.attrib if key.startswith("on")]
    assert all(button.get("type") == "button" for button in elements(dead, "button"))
    assert elements(dead, "style")[0].text == elements(html, "style")[0].text
    assert html.split("<script>")[1] in dead  # What stands in the page's own script stays as it is.


def test_odd_pages_are_many_and_parse():
    pages = odd_pages()
    assert len(pages) >= 30
    assert {name.partition("_")[0] for name in pages} == {"library", "animated", "other"}
    for name, html in pages.items():
        assert check_syntax(Page(html)).score == 1.0, name


def test_every_page_has_a_prompt():
    assert set(page_prompts()) == set(PAGES) | set(odd_pages())


def test_prompts_with_checks_are_many_and_their_pages_parse():
    asked = asked_pages()
    assert len(asked) == 20
    for name, one in asked.items():
        assert check_syntax(Page(one.html)).score == 1.0, name
        checks = parse_checks(one.checks)
        assert len(checks) >= 2, name
        assert any(check.steps for check in checks), name


def test_cheats_are_many_different_and_parse():
    pages = cheats()
    assert len(pages) + len(ATTACKS) >= 60
    assert len({(cheat.prompt, cheat.html, bool(cheat.checks)) for cheat in pages.values()}) == len(pages)
    for name, cheat in pages.items():
        assert check_syntax(Page(cheat.html)).passed, name


def test_parts_are_what_is_scored():
    kinds = [kind for kind, _ in tasks(BenchFrontendConfig(pages=1, parts=["asked", "attacks"]))]
    assert (kinds.count("asked"), kinds.count("attack"), len(kinds)) == (4, len(ATTACKS) + 1, len(ATTACKS) + 5)
    assert len(tasks(BenchFrontendConfig(parts=["asked"]))) == 80


def test_degradations_of_a_page_worked_by_hand():
    head = '<head><link rel="stylesheet" href="a.css"></head>'
    html = f'<html>{head}<body><p style="x">1</p><button onclick="f()">Go</button>'
    assert DEGRADATIONS["without_css"](html) == ('<html><head></head><body><p>1</p><button onclick="f()">Go</button>')
    dead = DEGRADATIONS["dead_buttons"](html)
    assert '<p style="x">1</p><button type="button">Go</button>' in dead
    assert dead.startswith("<html><head><script>")


def test_figures_by_hand():
    stages = {"syntax": 1.0, "function": 0.9, "aesthetics": 0.5, "other": 3.0}
    scores = {
        ("honest", "a"): Score(0.8, metrics=stages),
        ("honest", "b"): Score(0.6),
        ("without_css", "a"): Score(0.7),
        ("without_css", "b"): Score(0.6),
        ("dead_buttons", "a"): Score.model_fail("blank"),
        ("dead_buttons", "b"): Score.infra_error("no browser"),
        ("attack", "blank"): Score.model_fail("blank"),
        ("asked", "x/own"): Score(0.9),
        ("asked", "x/own_unverified"): Score(0.55),
        ("asked", "x/constant_unverified"): Score(0.1),
        ("odd", "animated_c"): Score(0.7, elapsed_s=9.0),
        ("odd", "animated_d"): Score.model_fail("hangs"),
    }
    report = figures(scores)
    assert (report["pairs"], report["pairs_won"]) == (4, 2)
    assert report["share_won"] == {"without_css": 0.5, "dead_buttons": 0.5}
    assert report["attacks"] == {"blank": {"score": 0.0, "worst_honest": 0.55}}
    assert report["asked"] == {"x": {"own": 0.9, "own_unverified": 0.55, "constant_unverified": 0.1}}
    assert [row["won"] for row in report["rows"]] == [True, False, True, False]
    assert report["rows"][0]["stages"]["original"] == {"syntax": 1.0, "function": 0.9, "aesthetics": 0.5}
    assert report["unscored"] == {"dead_buttons/b": "no browser"}
    assert report["failed"]["attack/blank"] == "blank"
    assert (report["honest"], report["rejected_honest"]) == (4, 1)
    assert (report["seconds_p50"], report["seconds_p95"]) == (0.0, 9.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pages": -1}, "pages: -1 is negative"),
        ({"parts": ["all"]}, "parts: all is unknown; give some of honest, degraded"),
        ({"parts": ["degraded"]}, "parts: degraded copies are held against the honest pages; add honest"),
        ({"deadline_s": 0}, "deadline_s: 0 is not positive"),
    ],
)
def test_bad_fields(changes, message):
    with pytest.raises(InputError, match=message):
        BenchFrontendConfig(**changes)


@pytest.mark.timeout(900)
def test_one_page_with_the_real_browser(tmp_path):
    files = {"output": str(tmp_path / "bench" / "frontend.json"), "percentiles": str(tmp_path / "percentiles.json")}
    report = bench_frontend(BenchFrontendConfig(pages=1, parts=["honest", "degraded", "attacks"], **files))
    assert json.loads((tmp_path / "bench" / "frontend.json").read_text()) == report
    assert (report["pairs"], report["pairs_won"]) == (4, 4)
    assert report["unscored"] == {}
    assert len(report["attacks"]) == len(ATTACKS) + 1
    for attack in report["attacks"].values():
        assert attack["score"] < attack["worst_honest"]
    levels = json.loads((tmp_path / "percentiles.json").read_text())
    assert len(set(levels["contrast"])) == 1  # of a single page


@pytest.mark.timeout(600)
def test_one_prompt_with_the_real_browser(tmp_path):
    report = bench_frontend(BenchFrontendConfig(pages=1, parts=["asked"], output=str(tmp_path / "asked.json")))
    [row] = report["asked"].values()
    assert row["constant"] < row["own"]
    assert row["constant_unverified"] < row["own_unverified"] <= 0.5 < row["own"]
