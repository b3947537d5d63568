"""Test cases in the shapes of public data sets: right programs pass, wrong ones fail, broken tests are no zero."""

import asyncio
import base64
import json
import pickle
import zlib

import pytest

from evolpo.rewards.code.cases import CallCase, ScriptCase, StdinCase
from evolpo.rewards.code.reward import CodeTests
from evolpo.rewards.code.shapes import cases_of
from evolpo.rewards.testing import make_sample
from evolpo.rl.data import Prompt

PATIENT = {"timeout_s": 20.0}


def score(program, metadata, prompt="Write it.", answer=None, **options):
    sample = make_sample(prompt=prompt, text=f"```python\n{program}\n```", metadata=metadata, answer=answer)
    [got] = asyncio.run(CodeTests(**(PATIENT | options)).score([sample]))
    return got


def packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


PRINT_SUM = "print(sum(map(int, input().split())))"
ADD = "def add(a, b):\n    return a + b"
SOLUTION = "class Solution:\n    def add(self, nums: List[int]) -> int:\n        return sum(nums)"
STDIN = [("1 2\n", "3\n"), ("4 5", "9")]
PAIRS = {"inputs": [one for one, _ in STDIN], "outputs": [other for _, other in STDIN]}
LINES = {"inputs": [["1 2"], "4 5\n"], "outputs": [["3"], "9"]}
LCB = [{"input": one, "output": other, "testtype": "stdin"} for one, other in STDIN]
FUNCTIONAL = [{"input": "[1, 2]", "output": "3", "testtype": "functional"}]

# Of each shape: the row, a program that is right and one that is wrong.
ROWS = {
    "own": ({"tests": [{"stdin": "1 2", "stdout": "3"}]}, PRINT_SUM, "print(0)"),
    "own, filled with nulls": (
        {
            "tests": [
                {"stdin": "1 2", "stdout": "3", "function": None, "args": None, "result": None, "setup": None},
            ]
        },
        PRINT_SUM,
        "print(0)",
    ),
    "own, call that returns null": (
        {"tests": [{"stdin": None, "stdout": None, "function": "f", "args": [1], "result": None}]},
        "def f(x):\n    pass",
        "def f(x):\n    return x",
    ),
    "own, arguments as text": ({"tests": [{"function": "add", "args": "[1, 2]", "result": 3}]}, ADD, "add = max"),
    "own, no input": ({"tests": [{"stdin": None, "stdout": "5"}]}, "print(5)", "print(6)"),
    "MBPP": (
        {
            "test_list": ["assert set(twice([1, 2])) == {2, 4}", "assert twice(()) == []"],
            "test_setup_code": "",
            "challenge_test_list": [],
        },
        "def twice(xs):\n    return [2 * x for x in xs]",
        "def twice(xs):\n    return [2 * x for x in xs] or ()",
    ),
    "MBPP with a set-up": (
        {"test_list": ["assert depth(root) == 2"], "test_setup_code": "root = Node(1)\nroot.left = Node(2)"},
        "class Node:\n    def __init__(self, x):\n        self.x, self.left = x, None\n"
        "def depth(n):\n    return 0 if n is None else 1 + depth(n.left)",
        "class Node:\n    left = None\n    def __init__(self, x):\n        pass\ndef depth(n):\n    return 1",
    ),
    "MBPP with objects": (
        {"test_list": ["assert widest([Pair(5, 24), Pair(1, 9)], 2) == 19"]},
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
        "def widest(pairs, n):\n    return max(p.b - p.a for p in pairs)",
        "class Pair:\n    def __init__(self, a, b):\n        pass\ndef widest(pairs, n):\n    return n",
    ),
    "MBPP, sanitized": (
        {"test_imports": ["import math"], "test_list": ["assert math.isclose(area(2), 12.566, rel_tol=0.001)"]},
        "def area(r):\n    return 3.14159 * r * r",
        "def area(r):\n    return 3 * r * r",
    ),
    "a function named like a built-in one": (
        {"test_list": ["assert sum(10, 15) == 6"]},
        "def sum(a, b):\n    return a + b - 19",
        "def total(a, b):\n    return 6",
    ),
    "AceCode": ({"test_cases": ["assert add(1, 2) == 3", "assert not add(0, 0)"]}, ADD, "add = max"),
    "HumanEval": (
        {
            "prompt": "from typing import List\n\ndef half(x: float) -> float:\n    return x / 2\n\n"
            "def solve(xs: List[float]) -> float:\n    '''Sum of halves.'''\n",
            "test": "METADATA = {}\n\ndef check(candidate):\n    for n in range(3):\n"
            "        assert abs(candidate([n, 1.0]) - half(n) - 0.5) < 1e-6\n    assert candidate([]) == 0",
            "entry_point": "solve",
        },
        "def solve(xs: List[float]) -> float:\n    return sum(map(half, xs))",
        "def half(x):\n    return 0\ndef solve(xs):\n    return 0.5 if xs else 0",
    ),
    "LeetCode": (
        {
            "prompt": "from typing import *\nimport math",
            "test": "def check(candidate):\n    assert candidate(nums=[1, 2]) == 3",
            "entry_point": "Solution().add",
        },
        SOLUTION,
        SOLUTION.replace("sum", "max"),
    ),
    "KodCode": (
        {
            "test": "from solution import Stack, pop_all\nimport pytest\n\ndef test_order():\n    s = Stack()\n"
            "    s.push(1)\n    s.push((2, 3))\n    assert len(s) == 2 and pop_all(s) == [(2, 3), 1]\n\n"
            "def test_empty():\n    with pytest.raises(ValueError, match='empty'):\n        Stack().pop()\n\n"
            "@pytest.mark.parametrize('n, m', [(1, 1), (5, 5)])\ndef test_many(n, m):\n    s = Stack()\n"
            "    for i in range(n):\n        s.push(i)\n    assert len(s) == m == pytest.approx(n)\n"
        },
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n"
        "        self.items.append(x)\n    def pop(self):\n        if not self.items:\n"
        "            raise ValueError('it is empty')\n        return self.items.pop()\n    def __len__(self):\n"
        "        return len(self.items)\ndef pop_all(s):\n    return [s.pop() for _ in range(len(s))]",
        "class Stack(list):\n    push = list.append\ndef pop_all(s):\n    return s[::-1]",
    ),
    "unittest": (
        {
            "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def setUp(self):\n        self.x = 2\n"
            "    def test_add(self):\n        self.assertEqual(add(self.x, 1), 3)",
            "entry_point": "add",
        },
        ADD,
        "add = max",
    ),
    "APPS": ({"input_output": json.dumps(PAIRS)}, PRINT_SUM, "print(3)"),
    "APPS, lines": ({"input_output": json.dumps(LINES)}, PRINT_SUM, "print(3)"),
    "APPS, function": (
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2], ["a", "b"]], "outputs": [3, ["ab"]]})},
        ADD,
        "add = max",
    ),
    "APPS, method": (
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[[1, 2]]], "outputs": [[3]]}), "starter_code": "x"},
        SOLUTION,
        SOLUTION.replace("sum", "max"),
    ),
    "LiveCodeBench": (
        {"public_test_cases": json.dumps(LCB[:1]), "private_test_cases": packed(LCB[1:]), "metadata": "{}"},
        PRINT_SUM,
        "print(3)",
    ),
    "LiveCodeBench, method": (
        {
            "public_test_cases": "[]",
            "private_test_cases": json.dumps(FUNCTIONAL),
            "metadata": '{"func_name": "add"}',
        },
        SOLUTION,
        SOLUTION.replace("sum", "max"),
    ),
    "CodeContests": (
        {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["4 5\n"], "output": ["9\n"]},
        },
        PRINT_SUM,
        "print(3)",
    ),
    "DeepCoder": (
        {"tests": json.dumps([{"type": "stdin_stdout", "input": "1 2\n", "output": "3\n", "fn_name": None}])},
        PRINT_SUM,
        "print(0)",
    ),
    "DeepCoder, function": (
        {"tests": [{"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}]},
        ADD,
        "add = max",
    ),
    "verifiable problems": (
        {
            "verification_info": json.dumps(
                {"language": "python", "test_cases": [{"type": "stdin_stdout", "input": "1 2", "output": "3"}]}
            )
        },
        PRINT_SUM,
        "print(0)",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_right_programs_pass_and_wrong_ones_fail(name):
    metadata, right, wrong = ROWS[name]
    got = score(right, metadata)
    assert (got.value, got.error) == (1.0, "")
    got = score(wrong, metadata)
    assert (got.value, got.status) == (0.0, "ok")
    assert got.error.startswith("case ")


@pytest.mark.parametrize("name", ROWS)
def test_data_that_can_be_judged_are_fit(name):
    assert CodeTests().needs(Prompt("x", "Write it.", (), metadata=ROWS[name][0])) is None


@pytest.mark.parametrize("tests", [PAIRS, json.dumps(PAIRS), [{"input": "1 2", "output": "3"}]])
def test_the_answer_has_the_tests_where_no_column_does(tests):
    assert score(PRINT_SUM, {"data_source": "apps"}, answer=tests).value == 1.0
    assert score("print(1)", {"data_source": "apps"}, answer=tests).value == 0.0


@pytest.mark.parametrize(
    ("expected", "got"),
    [("3\n", "3"), ("3", "3\n\n"), ("1 \n2\t\n", "1\n2"), ("1\r\n2\r\n", "1\n2\n"), ("", "\n")],
)
def test_blanks_at_line_ends_and_the_last_newline_do_not_decide(expected, got):
    metadata = {"input_output": {"inputs": [""], "outputs": [expected]}}
    assert score(f"import sys\nsys.stdout.write({got!r})", metadata).value == 1.0


def test_partial_marks_by_assertion():
    metadata = {"test_list": ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9"]}
    assert score("def f(x):\n    return x * 2 if x == 2 else 1", metadata, partial=True).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({}, "metadata['tests'] is missing"),
        ({"tests": None}, "metadata['tests'] must be a list"),
        ({"test_list": []}, "metadata['tests'] is missing"),
        (
            {"test": "import nowhere_at_all\ndef test_x():\n    assert f(1)"},
            "the tests need what is not there: No module",
        ),
        ({"test": "import pytest\ndef test_x():\n    pytest.warns(f)"}, "the tests need pytest.warns"),
        (
            {"test": "def test_x(tmp_path):\n    assert f(1)"},
            "the tests ask for fixtures, which there are not: tmp_path",
        ),
        ({"input_output": '{"inputs": ["1"], "outputs": []}'}, "has 1 inputs for 0 outputs"),
        ({"input_output": '{"inputs": "1", "outputs": [1]}'}, "inputs and outputs must be lists"),
        ({"public_test_cases": "[]", "private_test_cases": "not packed"}, "is neither JSON nor compressed JSON"),
        ({"public_test_cases": json.dumps(FUNCTIONAL)}, "has no func_name"),
        ({"input_output": "{}"}, "input_output"),
        ({"input_output": '{"inputs": [], "outputs": []}'}, "there is no test case"),
    ],
)
def test_broken_tests_are_no_zero(metadata, error):
    got = score("def f(x):\n    return x", metadata)
    assert (got.value, got.status) == (None, "infra_error")
    assert error in got.error


CHECK = "def check(candidate):\n    assert candidate(1) == 1"
NOTHING = "asserts nothing, so that every program would pass"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (
            {"test_list": ["assert f(1) =="]},
            "metadata['test_list'][0] is no Python (invalid syntax, line 1): assert f(1)",
        ),
        ({"test_list": ["assert f(1)", "assert f(2)\x00"]}, "metadata['test_list'][1] is no Python"),
        ({"test_list": ["return f(1) == 1"]}, "'return' outside function"),
        (
            {"test_list": ["assert f(1)"], "test_setup_code": "def g("},
            "metadata['test_setup_code'] or ['test_imports'] is",
        ),
        ({"test_list": ["assert f(1)"], "test_imports": ["import math as"]}, "['test_imports'] is no Python"),
        ({"test_list": ["f(1)==99"]}, f"metadata['test_list'][0] {NOTHING}: write `assert f(1)==99`"),
        (
            {"test_list": ["assert f(1) == 1", "not f(2)"]},
            f"metadata['test_list'][1] {NOTHING}: write `assert not f(2)`",
        ),
        ({"test_list": ["print(f(1))"]}, NOTHING),
        ({"test_list": ["x = f(1)"]}, NOTHING),
        ({"test_list": ["# f(1) == 2"]}, NOTHING),
        ({"test_list": ["assert True"]}, NOTHING),
        ({"test_list": ["assert 1 + 1 == 2"]}, NOTHING),
        ({"test_list": ["assert (f(1) == 2, 'no')"]}, NOTHING),
        ({"test_cases": ["f(1) is 3", "assert f(2)"]}, "metadata['test_cases'][0]"),
        ({"tests": ["f(2) == 3"]}, "metadata['tests'][0]"),
        ({"test": "def test_x():\n    f(1)"}, NOTHING),
        ({"test": CHECK}, "`check` runs if `entry_point` names the function"),
        ({"test": CHECK.replace("check", "verify"), "entry_point": "f"}, NOTHING),
        ({"test": CHECK, "entry_point": "not a name"}, "metadata['entry_point'] 'not a name' is no name of a function"),
        ({"test": CHECK, "entry_point": "class"}, "is no name"),
        ({"test": CHECK, "entry_point": "f; g"}, "is no name"),
        ({"test": CHECK, "entry_point": 7}, "is no name"),
        (
            {"input_output": {"fn_name": "not a name", "inputs": [[1]], "outputs": [1]}},
            "must be a name or Class.method",
        ),
        ({"input_output": {"fn_name": "f", "inputs": [[float("nan")]], "outputs": [1]}}, "args must be JSON values"),
    ],
)
def test_tests_that_cannot_run_or_fail_nobody_are_found_in_the_row(metadata, error):
    assert error in (CodeTests().needs(Prompt("x", "Write it.", (), metadata=metadata)) or "")


@pytest.mark.parametrize(
    "metadata",
    [
        {"test_list": ["same(f(1), 2)"], "test_setup_code": "def same(a, b):\n    assert a == b"},
        {"test_list": ["isclose_or_fail(f(1), 2)"], "test_imports": ["from helpers import isclose_or_fail"]},
        {"test_list": [r"assert f('\d')"]},
        {"test": CHECK + "\ncheck(f)"},
        {"test": CHECK.replace("assert", "assert True\n    assert"), "entry_point": "Solution().f"},
        {"test": "def helper(c):\n    assert c(1)\n\ndef check(c):\n    helper(c)", "entry_point": "f"},
        {"test": "import numpy as np\ndef test_x():\n    np.testing.assert_allclose(f(1), 1)"},
        {"test": "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    raise SystemExit(1)"},
    ],
)
def test_tests_that_judge_by_other_means_than_assert_are_fit(metadata):
    assert CodeTests().needs(Prompt("x", "Write it.", (), metadata=metadata)) is None


def test_packed_tests_run_nothing(tmp_path):
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(ValueError, match="neither JSON nor compressed JSON"):
        cases_of("p", None, {"public_test_cases": "[]", "private_test_cases": evil})
    assert not witness.exists()


def test_kinds_of_cases():
    def kinds(**metadata):
        return [type(one) for one in cases_of("p", None, metadata)]

    assert kinds(test_list=["assert f(1)", "assert f(2)"]) == [ScriptCase, ScriptCase]
    assert kinds(input_output=json.dumps(PAIRS)) == [StdinCase, StdinCase]
    assert kinds(input_output={"fn_name": "", **PAIRS}) == [StdinCase, StdinCase]
    assert kinds(input_output={"fn_name": "f", "inputs": [[1]], "outputs": [1]}) == [CallCase]


# -- programs that would rather pass than be right ------------------------------------------------------------------

SECRET = "pineapple-7391"
SCRIPT = {"test": f"def check(candidate):\n    assert candidate(3) == {SECRET!r}", "entry_point": "f"}
CHEATS = {
    "equal to everything": "class Any:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
    "def f(x):\n    return Any()",
    "a string equal to everything": "class Any(str):\n    def __eq__(self, other):\n        return True\n"
    "    __hash__ = str.__hash__\ndef f(x):\n    return Any()",
    "no assertion error": "import builtins\nclass Quiet(BaseException):\n    pass\nbuiltins.AssertionError = Quiet\n"
    "def f(x):\n    return 1",
    "its own check": "def check(candidate):\n    pass\ndef f(x):\n    return 1",
    "exits well": "import os\ndef f(x):\n    os._exit(0)",
    "exits well at once": "import os\nos._exit(0)",
    "writes a verdict": "import os\ndef f(x):\n    for fd in range(3, 30):\n        try:\n"
    "            os.write(fd, b'{\"fault\": null}')\n        except OSError:\n            pass\n    os._exit(0)",
    "kills the tests": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGTERM)\n    return 1",
    "reads what is there": "import os, gc, sys\ndef f(x):\n    found = []\n    for folder in ('/code', '/tmp'):\n"
    "        for name in os.listdir(folder):\n            found.append(open(os.path.join(folder, name)).read())\n"
    "    found += [one for one in gc.get_objects() if isinstance(one, str)] + sys.argv\n"
    "    text = ' '.join(found)\n    start = text.find('pine' + 'apple-')\n"
    "    return text[start:start + 14] if start >= 0 else 'nothing'",
    "breaks the line": "import sys\ndef f(x):\n    import os\n    os.write(int(sys.argv[2]), b'[\"value\", null]\\n')",
    "answers for all": "import sys, os\ndef f(x):\n"
    '    os.write(int(sys.argv[2]), b\'["value", ["o", 99]]\\n\')\n    return 1',
    "says the tests are broken": "def f(x):\n    raise ImportError('no module')",
    "is out of memory": "def f(x):\n    return [0] * 10**10",
    "holds everything": "class All:\n    def __contains__(self, x):\n        return True\ndef f(x):\n    return All()",
    "endless iterator": "import itertools\ndef f(x):\n    return itertools.count()",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_are_wrong(name):
    got = score(CHEATS[name], SCRIPT, timeout_s=5.0)
    assert (got.value, got.status) == (0.0, "ok"), got.error


def test_built_in_functions_of_the_tests_are_not_the_programs():
    metadata = {"test_list": ["assert set(f(1)) == set([2])", "assert all(x > 5 for x in f(3))"]}
    cheat = "def set(x):\n    return 0\ndef all(x):\n    return True\ndef f(x):\n    return [x]"
    assert score(cheat, metadata, partial=True).value == 0.0


@pytest.mark.parametrize("assertion", ["f(1) < 5", "abs(f(1) - 7) < 1e-6", "'pear' in f(1)", "not f(1) > 5"])
def test_objects_are_no_numbers_and_no_containers_by_their_word(assertion):
    cheat = (
        "class Yes:\n    def __lt__(self, x):\n        return True\n    __gt__ = __contains__ = __lt__\n"
        "    def __sub__(self, x):\n        return self\n    def __abs__(self):\n        return self\n"
        "def f(x):\n    return Yes()"
    )
    assert score(cheat, {"tests": [f"assert {assertion}"]}).value == 0.0
    honest = "class Bag:\n    def __iter__(self):\n        return iter(['pear'])\ndef f(x):\n    return Bag()"
    assert score(honest, {"tests": ["assert 'pear' in f(1)"]}).value == 1.0


def test_endless_programs_end():
    got = score("def f(x):\n    while True:\n        pass", SCRIPT, timeout_s=1.0)
    assert (got.value, got.status) == (0.0, "ok")
    assert "timeout" in got.error


@pytest.mark.parametrize(
    ("program", "assertion"),
    [
        (
            "def f(x):\n    return (x, [x], {x: {x}}, None, 1.5, True, b'x', 1 + 2j, range(3))",
            "assert f(1) == (1, [1], {1: {1}}, None, 1.5, True, b'x', 1 + 2j, range(3))",
        ),
        ("def f(x):\n    return float('nan')", "assert f(1) != f(1)"),
        ("def f(x):\n    return 10 ** 5000", "assert f(1) == 10 ** 5000"),
        (
            "from collections import Counter, namedtuple\nP = namedtuple('P', 'a b')\n"
            "def f(x):\n    return Counter(x), P(1, 2)",
            "assert f('aab') == ({'a': 2, 'b': 1}, (1, 2))",
        ),
        ("from fractions import Fraction\ndef f(x):\n    return Fraction(1, x)", "assert f(3) * 3 == 1"),
        ("def f(x):\n    return (i for i in range(x))", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x):\n    x.sort()", "xs = [3, 1]\nf(xs)\nassert xs == [1, 3]"),
        ("def f(g, xs):\n    return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]"),
        ("def f(g):\n    def h(x):\n        return g(x) * 2\n    return h", "assert f(abs)(-3) == 6"),
        (
            "class A:\n    def __init__(s, x):\n        s.x = x\n    def __eq__(s, o):\n        return s.x == o.x\n"
            "    __hash__ = None\ndef f(x):\n    return A(x)",
            "assert f(1) == A(1) and f(1) != A(2) and isinstance(f(1), A) and f(1).x == 1",
        ),
        (
            "class Own(ValueError):\n    pass\ndef f(x):\n    raise Own('no')",
            "try:\n    f(1)\n    raise SystemExit(1)\nexcept Own as error:\n    assert str(error) == 'no'",
        ),
        ("print('noise')\ndef f(x):\n    print(x)\n    return x", "assert f(1) == 1"),
        ("import solution\ndef g():\n    return 7\ndef f(x):\n    return g()", "assert f(1) == 7"),
    ],
)
def test_values_are_pythons_own(program, assertion):
    got = score(program, {"tests": [assertion]})
    assert (got.value, got.error) == (1.0, "")


@pytest.mark.parametrize(
    "assertion", ["assert f(1) == (1,)", "assert f(1) is True", "assert f(1) == [2]", "assert f(1)['a']", "assert g(1)"]
)
def test_other_values_are_not(assertion):
    assert score("def f(x):\n    return [1]", {"tests": [assertion]}).value == 0.0
