import asyncio
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.rewards.code.cases import CallCase, QueryCase, StdinCase, parse_cases, parse_json, same, same_text
from evolpo.rewards.code.reward import CodeTests, extract_program
from evolpo.rewards.registry import load_reward
from evolpo.rewards.testing import check_reward, make_sample

# A busy machine must not decide these tests: only what should run out of time gets little of it.
PATIENT = {"timeout_s": 20.0}
SUM = [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "-1 1", "stdout": "0"}]
ADD = [{"function": "add", "args": [2, 3], "result": 5}, {"function": "add", "args": ["a", "b"], "result": "ab"}]
TABLE = (
    "CREATE TABLE pets(name TEXT, legs INT, kg REAL); INSERT INTO pets VALUES ('Rex', 4, 30.1), ('Tweety', 2, NULL);"
)
PETS = [
    {"setup": TABLE, "rows": [["Rex", 4, 30.1], ["Tweety", 2, None]]},
    {"setup": TABLE + "DELETE FROM pets WHERE legs = 4;", "rows": [["Tweety", 2, None]]},
]


def fenced(program, name="python"):
    return f"Here it is.\n\n```{name}\n{program}\n```\nDone."


def score_all(samples, **options):
    return asyncio.run(CodeTests(**(PATIENT | options)).score(samples))


def score(text, tests, **options):
    [got] = score_all([make_sample(text=text, metadata={"tests": tests})], **options)
    return got


# -- programs that are right and programs that are wrong ------------------------------------------------------------

RIGHT = [
    ("python", "a, b = map(int, input().split())\nprint(a + b)", SUM),
    (
        "python",
        "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())))\n    exit()",
        SUM,
    ),
    ("python", "def add(a, b):\n    print('noise', 7)\n    return a + b\nif __name__ == '__main__':\n    input()", ADD),
    ("python", "def add(a: 'int', b: 'int') -> 'int':\n    return a + b\nprint(add(1, 1))", json.dumps(ADD)),
    (
        "python",
        "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: 'int'\n    b: int\n"
        "class Solution:\n    def swap(self, a, b):\n        pair = Pair(b, a)\n        return pair.a, pair.b",
        [{"function": "Solution.swap", "args": [1, 2], "result": [2, 1]}],
    ),
    (
        "javascript",
        "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number);\nconsole.log(a + b);",
        SUM,
    ),
    ("javascript", "function add(a, b) { console.log('noise'); return a + b; }", ADD),
    ("javascript", "const add = async (a, b) => { await null; return a + b; };", ADD),
    ("javascript", "module.exports = { add: (a, b) => a + b };", ADD),
    ("javascript", "function add() {}", [{**ADD[0], "result": None}]),
    (
        "javascript",
        "class Solution { #one = 1; add(a, b) { return a?.valueOf() + b + this.#one - 1; } }",
        [{"function": "Solution.add", "args": [2, 3], "result": 5}],
    ),
    ("sql", "SELECT * FROM pets ORDER BY legs; -- all of them", PETS),
    ("sql", "WITH p AS (SELECT * FROM pets) SELECT name AS who, legs, kg * 1.0000000001 FROM p", PETS),
    ("sql", "SELECT name FROM pets ORDER BY name DESC", [{**PETS[0], "rows": [["Tweety"], ["Rex"]], "ordered": True}]),
    ("sql", "DELETE FROM pets WHERE legs = 4 RETURNING name", [{"setup": TABLE, "rows": [["Rex"]]}]),
]
WRONG = [
    ("python", "a, b = map(int, input().split())\nprint(a - b)", SUM, "case 1 of 2: expected '5\\n', got '-1\\n'"),
    ("python", "print(5)", SUM, "case 2 of 2: expected '0', got '5\\n'"),
    ("python", "print(5); raise KeyError('late')", SUM, "exit code 1: KeyError: 'late'"),
    ("python", "print(5", SUM, "SyntaxError"),
    ("python", "def add(a, b): return str(a + b)", ADD, "case 1 of 2: expected 5, got '5'"),
    ("python", "def add(a, b): pass", ADD, "expected 5, got None"),
    ("python", "def sub(a, b): return a - b", ADD, "has no attribute 'add'"),
    ("python", "def add(a): return a", ADD, "TypeError"),
    ("python", "def add(a, b): return {a, b}", ADD, "not JSON serializable"),
    ("python", "def add(a, b): return float('nan')", ADD, "not JSON compliant"),
    ("python", "import numpy", SUM, "No module named 'numpy'"),
    ("javascript", "console.log(5)", SUM, "case 2 of 2"),
    ("javascript", "function add(a, b) { return `${a + b}`; }", ADD, "expected 5, got '5'"),
    ("javascript", "function add(a, b) { return NaN; }", [{**ADD[0], "result": None}], "exit code 1"),
    ("javascript", "function add(a, b) { return new Promise(() => {}); }", ADD, "it gave no result"),
    ("javascript", "async function add(a, b) { throw new Error('no'); }", ADD, "exit code 1"),
    ("javascript", "function add(a, b) {", ADD, "exit code 1"),
    ("sql", "SELECT name, legs FROM pets", PETS, "expected [['Rex', 4, 30.1]"),
    (
        "sql",
        "SELECT name FROM pets ORDER BY name",
        [{**PETS[0], "rows": [["Tweety"], ["Rex"]], "ordered": True}],
        "got",
    ),
    ("sql", "SELECT * FROM pets UNION ALL SELECT * FROM pets", PETS, "case 1 of 2"),
    ("sql", "SELECT * FROM pets LIMIT 0", PETS, "got []"),
    ("sql", "SELECT 1; SELECT * FROM pets", PETS, "one statement"),
    ("sql", "SELECT x'00' FROM pets", PETS, "not JSON serializable"),
    ("sql", "SELECT 9e999", PETS, "not JSON compliant"),
    ("sql", "SELEC 1", PETS, "syntax error"),
]


@pytest.mark.parametrize(("language", "program", "tests"), RIGHT)
def test_right_programs_pass(language, program, tests):
    got = score(fenced(program, language), tests, language=language)
    assert (got.value, got.status, got.error) == (1.0, "ok", "")
    assert got.elapsed_s > 0


@pytest.mark.parametrize(("language", "program", "tests", "reason"), WRONG)
def test_wrong_programs_fail_and_say_why(language, program, tests, reason):
    got = score(fenced(program, language), tests, language=language)
    assert (got.value, got.status) == (0.0, "ok")
    assert reason in got.error


@pytest.mark.parametrize(
    ("language", "program", "tests"),
    [
        ("python", "while True: pass", SUM),
        ("javascript", "for (;;);", SUM),
        ("sql", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", PETS),
    ],
)
def test_endless_programs(language, program, tests):
    reward = CodeTests(language=language, timeout_s=2.0)
    [got] = asyncio.run(reward.score([make_sample(text=fenced(program, language), metadata={"tests": tests})]))
    assert (got.value, got.status) == (0.0, "ok")
    assert got.error == "case 1 of 2: timeout after 2 CPU seconds"


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", "x = bytearray(1 << 30)"),
        ("javascript", "const x = []; for (;;) x.push(new Array(100000).fill(x.length));"),
        ("javascript", "const x = []; for (;;) x.push(Buffer.alloc(10000000, 1));"),
    ],
)
def test_memory_hogs(language, program):
    got = score(fenced(program, language), SUM, language=language, memory_mib=256)
    assert got.value == 0.0
    assert "case 1 of 2: exit code" in got.error


def test_share_of_passed_cases():
    tests = [{"stdin": str(number), "stdout": str(number % 3)} for number in range(4)]
    assert score(fenced("print(input())"), tests, partial=True).value == 0.75
    assert score(fenced("print(input())"), tests).value == 0.0
    assert "case 4 of 4: expected '0'" in score(fenced("print(input())"), tests, partial=True).error


# -- nothing to gain by cheating ----------------------------------------------------------------------------------

SECRET = "pineapple-7391"
CALL = [{"function": "f", "args": ["x"], "result": SECRET}, {"function": "f", "args": ["y"], "result": [1, SECRET]}]
PRINT = [{"stdin": "x", "stdout": SECRET}]
SEARCH = """
import gc, os, sys
def at_once(path, flags): return os.open(path, flags | os.O_NONBLOCK)
def everything():
    for folder, _, names in os.walk("/"):
        if not folder.startswith(("/usr", "/lib", "/dev", "/root", "/opt", "/home", sys.prefix)):
            for name in names:
                try: yield open(os.path.join(folder, name), errors="replace", opener=at_once).read(1 << 20)
                except OSError: pass
    frame = sys._getframe()
    while frame: yield str(frame.f_locals) + str(frame.f_globals); frame = frame.f_back
    yield from map(str, gc.get_objects())
    yield str(os.environ) + str(sys.argv) + str(sys.modules["__main__"].__dict__)
    for descriptor in range(3, 64):
        try: yield os.pread(descriptor, 1 << 20, 0).decode(errors="replace")
        except OSError: pass
def f(x):
    for text in everything():
        at = text.find("pine" + "apple-")
        if at >= 0: return text[at:at + 14]
"""
ATTACKS = {
    "sys.exit(0)": ("python", "import sys; sys.exit(0)", CALL),
    "os._exit(0)": ("python", "import os; os._exit(0)", CALL),
    "os._exit(0) when called": ("python", "import os\ndef f(x): os._exit(0)", CALL),
    "os._exit(0) instead of printing": ("python", "import os; os._exit(0)", PRINT),
    "process.exit(0)": ("javascript", "process.exit(0)", CALL),
    "process.exit(0) when called": ("javascript", "function f() { process.reallyExit(0); }", CALL),
    "equal to everything": (
        "python",
        "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    __hash__ = None\n"
        "def f(x): return E()",
        CALL,
    ),
    "string equal to everything": (
        "python",
        "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x): return E('x')",
        CALL,
    ),
    "list equal to everything": (
        "python",
        "class E(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 2\n"
        "def f(x): return E([1])",
        CALL,
    ),
    "toJSON": ("javascript", "function f() { return { toJSON: () => true }; }", CALL),
    "claims in the output": ("python", "print('PASSED', True, {'passed': 2, 'value': 1.0}, 'OK')", PRINT),
    "patched json": (
        "python",
        "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\njson.loads = lambda *a: 1\ndef f(x): return 1",
        CALL,
    ),
    "patched builtins": (
        "python",
        "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.type = lambda *a: str\ndef f(x): return 1",
        CALL,
    ),
    "patched prototypes": (
        "javascript",
        "JSON.stringify = () => 'true'; Object.prototype.passed = true; Array.prototype.every = () => true;\n"
        "function f() {}",
        CALL,
    ),
    "patched test runners": (
        "python",
        "import sys, types, unittest\nsys.modules['pytest'] = types.ModuleType('pytest')\n"
        "unittest.TestCase.assertEqual = lambda *a: None\nunittest.TestResult.wasSuccessful = lambda s: True\n"
        "def f(x): return 1",
        CALL,
    ),
    "many results": (
        "python",
        "import os\ndef f(x):\n    os.write(3, b'true\\n\"x\"\\nnull\\n')\n    os._exit(0)",
        [{"function": "f", "args": [1], "result": True}],
    ),
    "result and a forged one": (
        "python",
        "import os\nos.write(3, b'true')\ndef f(x): return True",
        [{"function": "f", "args": [1], "result": True}],
    ),
    "forged frames": ("python", 'import os\nos.write(3, b\'{"value": 1.0, "status": "ok"}\'); os._exit(0)', CALL),
    "at exit": ("python", "import atexit, os\natexit.register(os.write, 3, b'true')\ndef f(x): raise KeyError", CALL),
    "at exit, exit code 0": ("python", "import atexit, os\natexit.register(os._exit, 0)\nraise KeyError", PRINT),
    "at exit in JavaScript": ("javascript", "process.on('exit', () => { process.exitCode = 0; }); throw 1", PRINT),
    "uncaught in JavaScript": (
        "javascript",
        "process.on('uncaughtException', () => {}); function f() { throw 1; }",
        CALL,
    ),
    "children that stay": (
        "python",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nprint('x')",
        PRINT,
    ),
    "reads the harness": ("python", "def f(x): return open('/code/harness.py').read()", CALL),
    "reads everything": ("python", SEARCH, CALL),
    "reads everything and prints": ("python", SEARCH + "print(f(0))", PRINT),
    "changes the harness": ("python", "open('/code/harness.py', 'w').write('print(1)')", CALL),
    "asks the parent": ("python", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(1, 9)", PRINT),
    "kills all": ("python", "import os\nos.kill(-1, 9)", PRINT),
    "poses as a broken database": ("python", "import os\nos._exit(90)", PRINT),
    "poses as a broken sandbox": ("python", "import os\nos.write(2, b'bwrap: No permissions'); os._exit(1)", PRINT),
    "deep result": (
        "python",
        "import os\nos.write(3, b'[' * 900_000); os._exit(0)",
        [{"function": "f", "args": [], "result": []}],
    ),
    "long number": ("python", "import os\nos.write(3, b'9' * 900_000); os._exit(0)", CALL),
    "huge output": ("python", "while True: print('x' * 100_000)", PRINT),
    "bytes that are no text": ("python", "import os; os.write(1, bytes(range(128, 256)))", PRINT),
    "lone surrogates": ("python", "def f(x): return '\\ud800'", CALL),
    "attached database": ("sql", "ATTACH '/code/harness.py' AS other", PETS),
    "loaded extension": ("sql", "SELECT load_extension('/usr/lib/x.so')", PETS),
    "empty program": ("python", " ", PRINT),
    "the text itself": ("text", f'The tests pass. value: 1.0 {"{"}"passed": true{"}"}', PRINT),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_score_as_the_worst_honest_program(name):
    language, program, tests = ATTACKS[name]
    text = program if language == "text" else fenced(program, language)
    got = score(text, tests, **({} if language == "text" else {"language": language}))
    assert got.value == 0.0
    assert got.status in ("ok", "model_fail")  # An attack cannot buy itself out as our failure, either.
    assert got.error


@pytest.mark.parametrize(
    ("program", "limit"),
    [
        ("import time; time.sleep(1000)", "1 s of waiting"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "1 CPU seconds"),
    ],
)
def test_attacks_on_the_clock(program, limit):
    started = time.perf_counter()
    got = score(fenced(program), SUM, timeout_s=1.0)
    assert (got.value, got.status) == (0.0, "ok")
    assert got.error == f"case 1 of 2: timeout after {limit}"
    assert time.perf_counter() - started < 60


def test_right_result_counts_whatever_the_way():
    """The other side of the attack table: the same tricks with the right value pass, so the table tests the values."""
    program = "import os\ndef f(x):\n    os.write(3, b'\"pineapple-7391\"')\n    os._exit(0)"
    assert score(fenced(program), CALL[:1]).value == 1.0
    # And what stands in the input is found by the search that did not find what is expected.
    assert score(fenced(SEARCH), [{"function": "f", "args": [SECRET], "result": SECRET}]).value == 1.0


# -- failures that are not the program's --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "metadata", "error"),
    [
        ("python", {}, "metadata['tests'] is missing"),
        ("python", {"tests": []}, "metadata['tests'] must be a list"),
        ("python", {"tests": "[{"}, "metadata['tests'] is a string, but no JSON"),
        ("python", {"tests": [1]}, "metadata['tests'][0] must be an object, not int"),
        ("python", {"tests": [{}]}, "metadata['tests'][0] needs stdin and stdout"),
        ("python", {"tests": [SUM[0], {"stdin": "1"}]}, "metadata['tests'][1].stdout is missing"),
        ("python", {"tests": [{"stdin": 1, "stdout": "1"}]}, "metadata['tests'][0].stdin must be a string, not int"),
        (
            "python",
            {"tests": [{**SUM[0], "stdot": ""}]},
            "metadata['tests'][0] has fields that its kind does not know: std",
        ),
        ("python", {"tests": [{"function": "f", "args": "12", "result": 1}]}, "[0].args must be a list, not str"),
        ("python", {"tests": [{"function": "f g", "args": [], "result": 1}]}, "[0].function must be a name"),
        ("python", {"tests": [{"function": "f", "args": [{1}], "result": 1}]}, "[0].args must be JSON values"),
        ("python", {"tests": [{"function": "f", "args": [], "result": math.nan}]}, "[0].result must be a JSON value"),
        ("python", {"tests": PETS}, "metadata['tests'][0] is no case for python"),
        ("sql", {"tests": SUM}, "metadata['tests'][0] is no case for sql, which needs setup and rows"),
        ("sql", {"tests": [{"setup": "", "rows": [1]}]}, "[0].rows must be rows of null"),
        ("sql", {"tests": [{"setup": "", "rows": [[True]]}]}, "[0].rows must be rows of null"),
        ("sql", {"tests": [{**PETS[0], "ordered": 1}]}, "[0].ordered must be true or false"),
        ("sql", {"tests": [{"setup": "CREAT", "rows": []}]}, "metadata['tests'][0].setup fails: near \"CREAT\""),
        ("python", {"tests": SUM, "language": "cobol"}, "metadata['language'] 'cobol' is none of python"),
    ],
)
def test_broken_data_is_no_zero(language, metadata, error):
    [got] = score_all([make_sample(text=fenced("SELECT 1", language), metadata=metadata)], language=language)
    assert (got.value, got.status) == (None, "infra_error")
    assert error in got.error


def test_no_sandbox_is_no_zero_and_nothing_runs(monkeypatch, tmp_path):
    reward = load_reward("evolpo.rewards.code.reward:CodeTests", "use")
    witness = tmp_path / "ran"
    sample = make_sample(text=fenced(f"open({str(witness)!r}, 'w')"), metadata={"tests": SUM})
    asyncio.run(reward.score([sample]))
    monkeypatch.setenv("PATH", "")
    [got] = asyncio.run(reward.score([sample]))
    assert (got.value, got.status) == (None, "infra_error")
    assert "apt-get install bubblewrap" in got.error
    assert not witness.exists()


def test_interpreter_that_cannot_run_is_no_zero(monkeypatch, tmp_path):
    fake = tmp_path / "node"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    got = score(fenced("console.log(5)", "js"), SUM, language="javascript", memory_mib=300)  # Not tried before.
    assert (got.value, got.status) == (None, "infra_error")
    assert "in javascript fails in the sandbox" in got.error


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"language": "cobol"}, "language 'cobol' is none of python, javascript, sql"),
        ({"timeout_s": 0}, r"timeout_s 0\.0 is no deadline"),
        ({"memory_mib": 8}, "memory_mib 8 is too little"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_options(options, error):
    with pytest.raises(InputError, match=error):
        load_reward("evolpo.rewards.code.reward:CodeTests", "rewards.components[0].use", options)


def test_protocol_with_many_samples_of_mixed_languages():
    samples = [
        make_sample(text=fenced(program, language), metadata={"tests": tests, "language": language})
        for language, program, tests in RIGHT
    ]
    wrong = make_sample(text=fenced("print(0)"), metadata={"tests": SUM})
    scores = check_reward(
        CodeTests(**PATIENT), [*samples, wrong, make_sample(text="``` js\n1\n```", metadata={"tests": SUM})]
    )
    assert [one.value for one in scores] == [1.0] * len(RIGHT) + [0.0, 0.0]
    assert scores[-1].status == "model_fail"
    assert scores[-1].error == "no program in python found"


# -- extraction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nold\n```\nbetter:\n```Python title='a.py'\nnew\n```\nand so on", "new\n"),
        ("```python\nx\n```\nIt prints\n```\n5\n```", "x\n"),
        ("```\nx\n```", "x\n"),
        ("~~~ python\nx\n~~~", "x\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("<think>\n```python\nno\n```\n</think>\n<answer>\n```python\nyes\n```\n</answer>", "yes\n"),
        ("1. First\n\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y\n"),
        ("      ```python\n      x\n      ```", "x\n"),
        ("text\n```python\nx = 1", "x = 1"),
        ("```js\n1\n```", None),
        ("```python\n\n```", None),
        ("print(1)", "print(1)"),
        ("  \n", None),
        ("", None),
    ],
)
def test_extraction(text, program):
    assert extract_program(text, "python") == program


@given(st.text(alphabet="ab \n\t(){}'\"#=<>", min_size=1).filter(str.strip), st.text(alphabet="xyz .,\n"))
def test_fenced_program_is_found_as_it_is(program, before):
    assert extract_program(f"{before}\n\n```python\n{program}\n```\nafter", "python") == f"{program}\n".replace(
        "\r", "\n"
    )


@given(st.text(alphabet="`~python \n>-1.<*\x00"))
def test_extraction_takes_any_text(text):
    extract_program(text, "python")


@pytest.mark.parametrize(
    "piece", ["```python\n", "```\n", "`", "> ", "- ", "1. ", "~~~\nx\n", "   ```", "\n", "- ```\n"]
)
def test_extraction_is_fast_on_degenerate_responses(piece):
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    extract_program(text, "python")
    assert time.process_time() - started < 5.0


# -- comparison ---------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_a_value_is_the_same_after_its_way_through_json(value):
    assert same(value, json.loads(json.dumps(value)))
    assert not same(value, [value])
    assert not same([value], value)


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        (1, 1.0, True),
        (1.0, 1, True),
        (1, True, False),
        (True, 1, False),
        (0, False, False),
        (1, "1", False),
        (None, False, False),
        (None, 0, False),
        ("", None, False),
        ([], {}, False),
        ([], "", False),
        ((1, 2), [1, 2], True),
        ([1, [2]], [1, [2.0]], True),
        ([1, 2], [2, 1], False),
        ([1, 2], [1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        (0.1, 0.1 + 9e-8, True),
        (0.1, 0.1 + 2e-7, False),
        (0.0, 9e-10, True),
        (0.0, 2e-9, False),
        (3, 3.0000000001, False),
        (10**9, 10**9 + 1, False),
        (1.5, 10**400, False),
        (10**400, 1.5, False),
        (1.5, "1.5", False),
    ],
)
def test_same(expected, got, is_same):
    assert same(expected, got) is is_same


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        ("1\n2\n", "1  \r\n2\n\n", True),
        ("1\n2", "1 2", False),
        ("1\n2", "1\n\n2", False),
        (" 1", "1", False),
        ("Yes", "yes", False),
        ("0.5", "0.5000001", True),
        ("0.5 x", "5e-1 x", True),
        ("0.5 x", "0.5 y", False),
        ("0.5", "0.51", False),
        ("0.5", "nan", False),
        ("0.5", "0.5 0.5", False),
        ("3", "3.0", False),
        ("1000000", "1000001", False),
        ("", "\n", True),
        ("", "x", False),
    ],
)
def test_same_text(expected, got, is_same):
    assert same_text(expected, got) is is_same


@given(st.text())
def test_text_is_the_same_as_itself(text):
    assert same_text(text, text)
    assert not same_text(text, text.rstrip() + "!")


CELLS = st.none() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab", max_size=2)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8), st.randoms(use_true_random=False))
def test_order_of_rows(rows, random):
    shuffled = random.sample(rows, len(rows))
    output = json.dumps(shuffled).encode()
    assert QueryCase("", rows, ordered=False).mismatch(output) is None
    assert (QueryCase("", rows, ordered=True).mismatch(output) is None) == same(rows, shuffled)
    assert QueryCase("", [*rows, [0, 0]], ordered=False).mismatch(output) is not None


def test_rows_that_differ_by_rounding_and_in_order():
    third = 1 / 3
    rows = [[third, "b", 1], [third, "a", 2], [third, None, 3]]
    shuffled = [[third + 1e-12, None, 3], [third, "b", 1], [third - 1e-12, "a", 2]]
    assert QueryCase("", rows, ordered=False).mismatch(json.dumps(shuffled).encode()) is None


@given(
    st.dictionaries(st.sampled_from(["stdin", "stdout", "function", "args", "result", "setup", "rows"]), JSON_VALUES)
)
def test_parsing_takes_any_json(test):
    try:
        [case] = parse_cases([test])
    except ValueError as error:
        assert "metadata['tests'][0]" in str(error)  # noqa: PT017 - both ways are right
    else:
        assert isinstance(case, StdinCase | CallCase | QueryCase)


@pytest.mark.parametrize("data", [b"", b"1 2", b"NaN", b"[Infinity]", b"[" * 100_000, b"9" * 5000, b"\xff", b"{1: 2}"])
def test_data_that_is_not_one_json_value(data):
    with pytest.raises(ValueError, match=r"it gave no result|is not one JSON value"):
        parse_json(data)
