"""How programs in Python, JavaScript and SQL run in the sandbox, one fresh sandbox a test case.

A sandbox gets a program and the input of one case; what comes out is a value, never a verdict. So there is nothing in
it to read, to patch or to forge: a program that writes the right value itself has computed it from the input. A called
function's value travels on descriptor 3 and what the program prints goes to the standard error; anything else on that
descriptor spoils the one JSON value that must stand there.

Assertions in Python are a script, and who runs it must have the program at hand. So two processes share the sandbox:
the tests', which gets the script on its standard input and writes the verdict to descriptor 3, and the program's, which
has neither. It answers calls on a pipe, with plain data (`inside/wire.py`); there is no /proc and no ptrace in which
the one could reach the other.

One sandbox for all cases of a program, with a fork for each, would be four to six times as fast (400 cases a second
instead of 70 to 90, Python on two cores). But cases would share files and outlive each other, and what forks them would
have to be guarded against them.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from evolpo.rewards.code.cases import CallCase, Case, QueryCase, ScriptCase, StdinCase
from evolpo.rewards.code.sandbox import CODE_FOLDER, Limits, SandboxMissing, SandboxResult, run_sandboxed
from evolpo.rewards.visible import visible

SETUP_FAILED = 90
"""Exit code where the script of a query case fails, which no query can cause."""
V8_RESERVE_MIB = 64 << 10
"""Address space that Node may reserve without using it: 0.7 GiB to begin with (version 20), as much again for each
thread, 10 GiB for a memory of WebAssembly."""

_EXIT = "import builtins, sys; builtins.exit = builtins.quit = sys.exit\n"
"""Names that `site` makes, which is not loaded: the packages beside the standard library triple the start-up time."""
_MAIN_PYTHON = f"""\
{_EXIT}with open("/code/program.py", "rb") as file:
    source = file.read()
del builtins, sys, file
exec(compile(source, "/code/program.py", "exec"))
"""
_CALL_PYTHON = f"""\
{_EXIT}import json, os
request = json.loads(sys.stdin.buffer.read())
if request["imports"]:
    import bisect, collections, functools, heapq, itertools, math, random, re, string, typing
    for module in (bisect, collections, functools, heapq, itertools, typing, math, random, re, string):
        vars(builtins).setdefault(module.__name__, module)
    for module in (bisect, collections, functools, heapq, itertools, typing):
        for name in module.__all__ if hasattr(module, "__all__") else dir(module):
            vars(builtins).setdefault(name, getattr(module, name))
import program
*owners, name = request["function"].split(".")
target = program
if not owners and not hasattr(program, name) and hasattr(program, "Solution"):
    target = program.Solution()
for owner in owners:
    target = getattr(target, owner)()
data = json.dumps(getattr(target, name)(*request["args"]), allow_nan=False).encode()
with os.fdopen(3, "wb", closefd=False) as channel:
    channel.write(data)
os._exit(0)
"""
_CALL_JAVASCRIPT = """\
const fs = require("fs");
const vm = require("vm");
const request = JSON.parse(fs.readFileSync(0, "utf8"));
Object.assign(globalThis, { require, module: { exports: {} } });
globalThis.exports = globalThis.module.exports;
vm.runInThisContext(fs.readFileSync("/code/program.js", "utf8"), { filename: "/code/program.js" });
const [first, method] = request.function.split(".");
const found = vm.runInThisContext(`typeof ${first} === "undefined" ? module.exports.${first} : ${first}`);
const owner = method === undefined ? undefined : new found();
const target = method === undefined ? found : owner[method];
const finite = (key, value) => {
  if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError(`${value} is not JSON`);
  return value;
};
Promise.resolve(target.apply(owner, request.args)).then((result) => {
  fs.writeFileSync(3, JSON.stringify(result, finite) ?? "null");
  process.exit(0);
});
"""
_QUERY = f"""\
import json, os, sqlite3, sys
connection = sqlite3.connect(":memory:")
try:
    connection.executescript(json.loads(sys.stdin.buffer.read())["setup"])
except sqlite3.Error as error:
    print(error, file=sys.stderr)
    sys.exit({SETUP_FAILED})
with open("/code/program.sql", encoding="utf-8") as file:
    rows = connection.execute(file.read()).fetchall()
data = json.dumps(rows, allow_nan=False).encode()
with os.fdopen(3, "wb", closefd=False) as channel:
    channel.write(data)
"""


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its names in fenced blocks, its file, and what runs it."""

    fences: tuple[str, ...]
    """What stands behind the opening fence of a block in this language."""
    program: str
    """Name of the file that the program is in."""
    harness: tuple[str, str]
    """Name and text of the script that runs the program for a value."""
    main: tuple[str, str] | None
    """The same for a whole program; None where it runs by itself."""
    interpreter: Literal["python", "node"]
    cases: tuple[type[Case], ...]
    """Kinds of test cases."""
    trivial: tuple[str, Case]
    """A program and a case that it passes, to see whether the language runs at all."""


LANGUAGES: Mapping[str, Language] = {
    "python": Language(
        fences=("python", "py", "python3"),
        program="program.py",
        harness=("harness.py", _CALL_PYTHON),
        main=("main.py", _MAIN_PYTHON),
        interpreter="python",
        cases=(StdinCase, CallCase, ScriptCase),
        trivial=("print(1)", StdinCase("", "1")),
    ),
    "javascript": Language(
        fences=("javascript", "js", "node"),
        program="program.js",
        harness=("harness.js", _CALL_JAVASCRIPT),
        main=None,
        interpreter="node",
        cases=(StdinCase, CallCase),
        trivial=("console.log(1)", StdinCase("", "1")),
    ),
    "sql": Language(
        fences=("sql", "sqlite", "sqlite3"),
        program="program.sql",
        harness=("harness.py", _QUERY),
        main=None,
        interpreter="python",
        cases=(QueryCase,),
        trivial=("SELECT 1", QueryCase("", [[1]], ordered=True)),
    ),
}


def run_case(
    language: Language,
    program: str,
    case: Case,
    limits: Limits,
    *,
    on_idle: Callable[[], None] | None = None,
    cancel: threading.Event | None = None,
) -> SandboxResult:
    """Run a program on the input of one case; the standard output of the result is what `case.mismatch` judges.

    For `on_idle` and `cancel` see `run_sandboxed`.

    Raises:
        SandboxMissing: no sandbox, or no interpreter of the language.
        SandboxCancelled: `cancel` was set.
        SandboxError: the sandbox failed.
    """
    interpreter, readonly = _interpreter(language, limits)
    files = {language.program: program}
    if isinstance(case, StdinCase):
        name, text = language.main or (language.program, program)
        files[name] = text
        command, stdin = [*interpreter, f"{CODE_FOLDER}/{name}"], case.stdin
    elif isinstance(case, ScriptCase):
        files |= _checker_files()
        command = [*interpreter, f"{CODE_FOLDER}/checker.py"]
        stdin = json.dumps({"script": case.script, "entry": case.entry, "prelude": case.prelude})
    else:
        name, text = language.harness
        files[name] = text
        command = [*interpreter, f"{CODE_FOLDER}/{name}"]
        stdin = json.dumps(
            {"setup": case.setup}
            if isinstance(case, QueryCase)
            else {"function": case.function, "args": case.args, "imports": case.imports}
        )
    if language.interpreter == "node":
        limits = replace(limits, reserve_mib=V8_RESERVE_MIB)
    return run_sandboxed(
        command,
        stdin=stdin.encode(errors="replace"),
        files={name: text.encode(errors="replace") for name, text in files.items()},
        readonly=readonly,
        limits=limits,
        # Whole programs open /dev/stdin. A harness must not be reached from a program by the files of its process.
        proc=isinstance(case, StdinCase),
        channel=not isinstance(case, StdinCase),
        on_idle=on_idle,
        cancel=cancel,
    )


@functools.cache
def _checker_files() -> dict[str, str]:
    """Name and text of the files that run a script of assertions against a program in a process of its own."""
    folder = Path(__file__).with_name("inside")
    return {f"{name}.py": (folder / f"{name}.py").read_text() for name in ("wire", "server", "remote", "checker")}


@functools.cache
def check_language(language: str, memory_mib: int) -> None:
    """Raise SandboxMissing if not even a trivial program runs with this memory; a success is remembered."""
    chosen = LANGUAGES[language]
    program, case = chosen.trivial
    result = run_case(chosen, program, case, Limits(cpu_s=30.0, memory_mib=memory_mib))
    if result.kind != "finished" or case.mismatch(result.stdout) is not None:
        reason = visible(result.stderr.decode(errors="replace").strip()[-300:]) or result.kind
        raise SandboxMissing(f"code_tests: {program!r} in {language} fails in the sandbox: {reason}; check memory_mib")


def _interpreter(language: Language, limits: Limits) -> tuple[list[str], list[Path]]:
    """The command that takes a script, and what it needs to read beyond the system's folders."""
    if language.interpreter == "python":
        # This very Python, but the one behind a virtual environment: programs get the standard library, not ours.
        python = Path(sys.executable).resolve()
        return [str(python), "-S", "-s", "-B"], _outside_system(python.parent.parent)
    found = shutil.which("node")
    if found is None:
        raise SandboxMissing("code_tests: node is not on the PATH; apt-get install nodejs, or drop JavaScript")
    node = Path(found).resolve()
    return [str(node), f"--max-old-space-size={limits.memory_mib}"], _outside_system(node)


def _outside_system(path: Path) -> list[Path]:
    return [] if path.is_relative_to("/usr") else [path]
