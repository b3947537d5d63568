import pytest

from evolpo.rewards.frontend.effects import Look, State, differs_in_words, noticeable


def look(text="", box=(0, 0, 100, 20), path="p0", **others):
    given = {"name": "p", "ink": (0, 0, 0), "back": (255, 255, 255), "edge": None, "opacity": 1.0, "other": ""}
    return Look(path=path, text=text, box=box, **{**given, "paints": bool(text), **others})


def state(*looks, canvases=None, scroll=(0, 0), **others):
    return State(looks, canvases or {}, scroll, fullscreen=False, **others)


def seen(before, after):
    """What is noticed where the twin stayed as it was."""
    return {one.partition(" ")[0] for one in noticeable(state(*before), state(*after), state(*before))}


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ("The count is 0", "The count is 1", True),
        ("9", "10", True),
        ("", "X", True),
        ("\u2606", "\u2605", True),
        ("Pause", "Resume", True),
        ("Menu", "Menue", False),
        ("Menu", "menu", False),
        ("Saved", "Saved.", False),
        ("Saved", "Saved\u200b", False),
        ("Saved", " Saved\u00a0", False),
        ("Saved", "Saved!!!", False),
    ],
)
def test_a_letter_more_in_a_word_is_no_change(one, other, differs):
    assert differs_in_words(one, other) is differs
    assert differs_in_words(other, one) is differs
    assert bool(seen([look(one)], [look(other)])) is differs


def test_small_changes_are_none():
    assert seen([look("Tea")], [look("Tea", (1, 0, 100, 20))]) == set()
    assert seen([look("Tea")], [look("Tea", (0, 30, 100, 20))]) == {"moved"}
    assert seen([look("Tea")], [look("Tea", ink=(20, 20, 20))]) == set()
    assert seen([look("Tea")], [look("Tea", back=(255, 200, 200))]) == {"colour"}
    assert seen([look("Tea")], [look("Tea", opacity=0.95)]) == set()
    assert seen([], [look(path="i0")]) == set()
    assert seen([], [look(path="i0", box=(0, 0, 2, 2), paints=True)]) == set()
    assert seen([], [look(path="i0", box=(0, 0, 20, 20), paints=True)]) == {"new"}
    assert seen([look("Tea"), look("Jam", path="p1")], [look("Tea")]) == {"gone"}


def test_elements_are_known_by_their_looks_not_by_their_place():
    """Something invisible before them moves all places in the document by one."""
    rows = [look(text, (0, 20 * at, 100, 20), f"p{at}") for at, text in enumerate(["Tea", "Jam", "Oil"])]
    moved = [look(one.text, one.box, f"p{at + 1}") for at, one in enumerate(rows)]
    assert seen(rows, [look(path="i0"), *moved]) == set()


def test_what_the_twin_has_too_is_no_effect():
    before = state(look("12:00"), look("0", path="p1"))
    later = state(look("12:01"), look("0", path="p1"))
    used = state(look("12:01"), look("1", path="p1"))
    assert noticeable(before, later, later) == frozenset()
    assert noticeable(before, used, later) == {"text p1"}
    assert noticeable(before, used, later, frozenset({"p1"})) == frozenset()
    # What is gone in both loads is nobody's doing.
    assert noticeable(before, state(), state()) == frozenset()


def test_canvases_scrolling_and_downloads():
    plain, dot, disc = "0" * 200, "0" * 199 + "z", "0" * 150 + "z" * 50
    start = state(canvases={"c": plain})
    assert noticeable(start, state(canvases={"c": dot}), start) == frozenset()
    assert noticeable(start, state(canvases={"c": disc}), start) == {"canvas c"}
    assert noticeable(start, state(canvases={"c": disc}), state(canvases={"c": disc})) == frozenset()
    start = state()
    assert noticeable(start, state(scroll=(0, 40)), start) == frozenset()
    assert noticeable(start, state(scroll=(0, 400)), start) == {"scroll"}
    assert noticeable(start, state(downloads=1), start) == {"download"}
