"""All of reasoning-gym's families: honest answers score as its own verifiers say, and no answer is ever run."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS, get_score_answer_fn

from evolpo.rewards.answer import reasoning_gym_answer
from evolpo.rewards.answers import gym, overlooked, sealed
from evolpo.rewards.testing import make_sample

FAMILIES = sorted(set(DATASETS) - {"composite"})  # The last is a mixture of others.
MARKER = Path("/tmp") / f"evolpo-answers-{os.getpid()}"


def score(entry, text, **options):
    sample = make_sample(prompt=entry["question"], answer=entry["answer"], text=text, metadata={"entry": entry})
    return reasoning_gym_answer.function(sample, **options)


def entries(family, seed, count):
    dataset = reasoning_gym.create_dataset(family, size=count, seed=seed)
    return [dataset[index] for index in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_scores_as_its_verifier_says(family):
    own = get_score_answer_fn(family)
    for seed in (1, 2, 3):
        for entry in entries(family, seed, 2):
            reference = entry["answer"]
            if not isinstance(reference, str):
                continue
            expected = float(own(reference, entry) >= 1.0)
            boxed = score(entry, rf"So \boxed{{{reference}}}")
            tagged = score(entry, f"I think <answer>{reference}</answer>")
            closing = score(entry, f"The answer is {reference}", tolerant=True)
            assert [boxed.value, tagged.value, closing.value] == [expected] * 3, (reference, boxed, tagged, closing)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_answer_is_zero(family):
    [entry] = entries(family, 4, 1)
    for answer in ("zzz", "-98765", "[]", "None", "1 2 3", "yes or no"):
        if answer == str(entry["answer"]):
            continue
        got = score(entry, rf"\boxed{{{answer}}}")
        assert (got.value, got.unscored) == (0.0, False), answer


ATTACKS = [
    f"__import__('os').system('touch {MARKER}')",
    f"[__import__('os').system('touch {MARKER}')]",
    f"(lambda: open('{MARKER}', 'w'))()",
    f"[open('{MARKER}', 'w') for _ in [1]]",
    f"(x := open('{MARKER}', 'w'))",
    "f'{__import__(chr(111)+chr(115)).getpid()}'",
    "().__class__.__bases__[0].__subclasses__()",
    "[c for c in ().__class__.__mro__[1].__subclasses__()]",
    "entry['answer']",
    "oracle_answer",
    "__import__('sys')._getframe(1).f_locals['entry']['answer']",
    "__import__('inspect').currentframe().f_back.f_locals['oracle_answer']",
    "globals().update(a=1) or 1",
    "setattr(__import__('builtins'), 'len', lambda x: 1)",
    "exec('import os')",
    "eval('1+1')",
    "sympify('1')",
    "Lambda(x, x)",
    "lambdify((), '__import__(\"os\").getpid()')()",
    "sin.__globals__",
    "Symbol('x').func.__module__",
    "x.__class__",
    "1 .__class__",
    "print(1)",
    "breakpoint()",
    "exit()",
    "*[1]",
    "{**{}}",
    "[1, 2][0]",
    "1 if 1 else 2",
    "b'x'",
    "...",
    "10**10**10",
    "9**9**9**9",
    "2**100000000",
    "factorial(10**9)",
    "100000!!",
    "(((99999!)!)!)!",
    "1e999999999",
    "1E-999999999",
    "1/1e999999999",
    "9" * 5_000,
    "-" * 5_000 + "1",
    "(" * 5_000 + "1" + ")" * 5_000,
    "[" * 5_000 + "]" * 5_000,
    "(x+1)**999999",
    "((x+1)**99)**99",
    "x**x**x**x",
    "sin(" * 200 + "x" + ")" * 200,
    "a" * 100_000,
    "1+" * 50_000 + "1",
    "1\x00+1",
    "\x00",
    "\ud800",
    "{" * 200,
    '{"a": ' * 2_000 + "1" + "}" * 2_000,
]


@pytest.fixture
def events():
    """What runs as code or leaves this process, while a test is on."""
    seen = []
    watched = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn"}

    def hook(event, args):
        if on and (event in watched or (event == "exec" and args[0].co_filename == "<string>")):
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller not in ("collections", "dataclasses"):
                seen.append((event, caller))

    on = [True]
    sys.addaudithook(hook)
    yield seen
    on.clear()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_an_answer_runs_hangs_or_breaks(family, events):
    [entry] = entries(family, 5, 1)
    score(entry, "<answer>zzz</answer>")  # Imports sympy, which makes its units by reading text of its own.
    events.clear()
    for attack in ATTACKS:
        started = time.perf_counter()
        got = score(entry, f"<answer>{attack}</answer>")
        elapsed = time.perf_counter() - started
        assert (got.value, got.unscored) == (0.0, False), (attack[:80], got)
        assert elapsed < 40.0, (attack[:80], elapsed)
    assert not MARKER.exists()
    assert events == []
    if isinstance(entry["answer"], str):  # And the next verdict is what it was.
        assert score(entry, f"<answer>{entry['answer']}</answer>").value == 1.0


def test_the_families_that_evaluate_are_those_that_are_known():
    """The bare verifiers run text as code for exactly these; found by watching, so that a new version shows."""
    import sympy.physics.units  # noqa: F401 - it runs text of its own

    found = set()
    code = []
    sys.addaudithook(lambda event, args: code.append(args) if event == "exec" and on else None)
    on = [True]
    for family in FAMILIES:
        [entry] = entries(family, 6, 1)
        verifier = get_score_answer_fn(family)
        for answer in ("zzz", "1+1", "[1,2]", "[['a','b']]", "x**2"):
            code.clear()
            try:
                verifier(answer, entry)
            except Exception:  # noqa: BLE001
                continue
            finally:
                if any(one[0].co_filename == "<string>" for one in code):
                    found.add(family)
    on.clear()
    assert found == gym.EVALUATING | {"bitwise_arithmetic", "number_sorting"}  # These two run the problem's own text.


def test_text_that_a_verifier_would_run_is_reported(monkeypatch):
    """The second wall: a family whose verifier evaluates, taken for one that does not."""
    [entry] = entries("countdown", 7, 1)
    sealed_process_of_test = sealed._current
    if sealed_process_of_test is not None:
        sealed_process_of_test.end()
    monkeypatch.setattr(gym, "_evaluate_by_hand", lambda family, module: None)
    with pytest.raises(sealed.TextExecuted):
        score(entry, f"<answer>{entry['answer']}</answer>")
    sealed._current.end()


@pytest.mark.parametrize(
    ("family", "answer", "value"),
    [
        ("countdown", "REFERENCE", 1.0),
        ("countdown", "TARGET", 0.0),
        ("puzzle24", "REFERENCE", 1.0),
        ("puzzle24", "6*4*1*1", 0.0),  # Not the numbers of the problem.
        ("puzzle24", "4!", 0.0),
        ("game_of_life_halting", "OTHER", 0.0),
        ("number_sorting", "OFF BY ONE", 0.0),
        ("gsm_symbolic", "REFERENCE or 1", 0.0),
        ("gsm_symbolic", "REFERENCE 19", 0.0),
        ("gsm_symbolic", "REFERENCE, 19", 0.0),
        ("gsm_symbolic", "-REFERENCE", 0.0),
        ("complex_arithmetic", "nan", 0.0),
        ("complex_arithmetic", "nan+nani", 0.0),
        ("coin_flip", "0", 0.0),
        ("polynomial_equations", "REFERENCE, banana", 0.0),
        ("simple_integration", "Integral(x, x)", 0.0),
    ],
)
def test_what_verifiers_overlook(family, answer, value):
    [entry] = entries(family, 8, 1)
    if family == "number_sorting":
        numbers = [float(number) for number in eval(entry["answer"])]
        answer = str([number + 0.5 for number in numbers])
    answer = answer.replace("OTHER", {"True": "False"}.get(entry["answer"], "True"))
    answer = answer.replace("REFERENCE", str(entry["answer"])).replace("TARGET", str(entry["metadata"].get("target")))
    assert score(entry, f"<answer>{answer}</answer>").value == value


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_that_went_through_json_is_the_same(family):
    for entry in entries(family, 7, 2):
        read = json.loads(json.dumps(entry, default=str))
        if isinstance(entry["answer"], str):
            assert score(read, f"<answer>{entry['answer']}</answer>").value == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_who_denies_or_goes_on_has_not_answered(family):
    [entry, *others] = [one for one in entries(family, 7, 6) if isinstance(one["answer"], str) and one["answer"]] or [
        None
    ]
    if entry is None:
        return
    right = entry["answer"]
    other = next((one["answer"] for one in others if one["answer"] != right), "0")
    forms = [
        "not {0}",
        "it is not {0}",
        "{0} is wrong",
        "{0} or 0",
        "0 or {0}",
        "{0} or {1}",
        "{1} or {0}",
        "maybe {0}",
    ]
    for form in [*forms, "{0}, {1}", "{0}\n{1}", "{1}\n{0}", ""]:
        got = score(entry, f"<answer>{form.format(right, other)}</answer>")
        assert (got.value or 0.0, got.unscored) == (0.0, False), form


BOXNET = {
    "answer": None,
    "metadata": {
        "source_dataset": "boxnet",
        "initial_state": {"0.5_0.5": ["box_red"], "0.5_1.5": ["target_red"]},
    },
    "question": "",
}
RUSH_HOUR = {
    "answer": None,
    "metadata": {"source_dataset": "rush_hour", "board_config": "oooooooooooooooAAooooooooooooooooooo"},
    "question": "",
}
MOVES = '[{"Agent[0.5, 0.5]": "move(box_red, square[0.5, 1.5])"}, {"Agent[0.5, 1.5]": "move(box_red, target_red)%s"}]'


def solved(family):
    """A problem of a family with several answers, one that is right, and what shows that another one is not."""
    if family == "boxnet":
        return BOXNET, MOVES % ""
    if family == "rush_hour":
        return RUSH_HOUR, "A+1"
    [entry] = entries(family, 11, 1)
    known = entry["metadata"]
    if family == "graph_color":
        return entry, json.dumps(known["possible_answer"])
    return entry, known.get("example_correct_answer") or known.get("example_answer") or entry["answer"]


@pytest.mark.parametrize(
    "family",
    [*sorted(overlooked.LANGUAGES), "boxnet", "graph_color", "knights_knaves", "letter_jumble", "spell_backward"],
)
def test_an_answer_is_nothing_else_where_a_verifier_skips_what_it_does_not_know(family):
    entry, right = solved(family)
    assert score(entry, f"<answer>{right}</answer>").value == 1.0
    doubts = [
        "not {0}",
        "I doubt {0}",
        "anything but {0}",
        "{0} qqq",
        "qqq {0}",
        "{0}?",
        "\u00ac{0}",
        "-{0}",
        "{0} or {0}",
    ]
    for form in [*doubts, "{0} = {0}", "{0}; or else none", "If {0}", "[{0}, {0}]", "{0} | {0}"]:
        if (family, form) != ("propositional_logic", "\u00ac{0}"):  # a statement of its own
            assert score(entry, f"<answer>{form.format(right)}</answer>").value == 0.0, form


def test_moves_with_an_afterthought_and_keys_that_stand_twice():
    for afterthought in (" not", ", or move(box_red, square[0.5, 0.5])"):
        assert score(BOXNET, f"<answer>{MOVES % afterthought}</answer>").value == 0.0
    entry, right = solved("graph_color")
    first = next(iter(json.loads(right)))
    assert score(entry, f'<answer>{right[:-1]}, "{first}": {json.loads(right)[first]}}}</answer>').value == 0.0


def test_a_premise_is_no_conclusion():
    for entry in entries("propositional_logic", 3, 5):
        for premise in entry["metadata"]["premises"]:
            assert score(entry, f"<answer>{premise}</answer>").value == 0.0


@pytest.mark.parametrize("family", ["countdown", "simple_integration", "polynomial_multiplication"])
def test_operators_as_people_write_them(family):
    [entry] = entries(family, 9, 1)
    written = entry["answer"].replace("**", "^").replace("*", " × ").replace("-", "\u2212")
    assert score(entry, rf"\boxed{{{written}}}").value == 1.0
