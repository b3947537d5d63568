"""The test cases of a prompt, in the shapes that public data sets have them.

| shape | columns |
|---|---|
| evolpo | `tests`: objects with stdin and stdout; function, args and result; setup and rows |
| MBPP, AceCode | `test_list` or `test_cases`: assertions; `test_setup_code`, `test_imports` |
| HumanEval, LeetCode | `test` with `check(candidate)`, `entry_point` |
| KodCode, BigCodeBench | `test`: functions `test_*` or test classes |
| APPS, TACO | `input_output`: `inputs`, `outputs` and, for functions, `fn_name` |
| LiveCodeBench | `public_test_cases`, `private_test_cases` (compressed), `metadata` with `func_name`, `starter_code` |
| CodeContests | `public_tests`, `private_tests`, `generated_tests`: `input` and `output` |
| verifiable problems | `verification_info` with `test_cases` |
| verl | the answer (`reward_model.ground_truth`): any of these as JSON |
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from evolpo.rewards.code.cases import CallCase, Case, ScriptCase, StdinCase, check_call, parse_cases
from evolpo.rewards.code.scripts import check_script

MAX_UNPACKED = 1 << 28
"""Bytes of compressed tests after unpacking."""
_OWN = ("stdin", "stdout", "function", "setup", "rows")


def cases_of(prompt: str, answer: Any, metadata: Mapping[str, Any]) -> list[Case]:
    """The test cases of a prompt.

    Args:
        prompt: the problem's text; of HumanEval it is the head of the program.
        answer: of the prompt; has the tests where no column does.
        metadata: columns of the row.

    Raises:
        ValueError: there are none, or they are malformed; the message names them.
    """
    there = {name: value for name, value in metadata.items() if value not in (None, "", [])}
    setup = _setup(there)
    if "tests" in metadata:
        return _parsed(metadata["tests"], "metadata['tests']", setup)
    if isinstance(there.get("test"), str):
        return [_script(there["test"], str(there.get("entry_point", "")), there, prompt)]
    for name in ("test_list", "test_cases", "input_output"):
        if name in there:
            return _parsed(there[name], f"metadata[{name!r}]", setup)
    if "public_test_cases" in there or "private_test_cases" in there:
        return _livecodebench(there)
    found = [
        case
        for name in ("public_tests", "private_tests", "generated_tests")
        if name in there
        for case in _pairs(there[name], f"metadata[{name!r}]")
    ]
    if found:
        return found
    information = _json(there.get("verification_info"))
    if isinstance(information, Mapping) and information.get("test_cases"):
        return _parsed(information["test_cases"], "metadata['verification_info'].test_cases", setup)
    if "inputs" in there and "outputs" in there:
        return _pairs(there, "metadata")
    if isinstance(_json(answer), Mapping | Sequence) and not (isinstance(answer, str) and answer == _json(answer)):
        return _parsed(answer, "the answer", setup)
    raise ValueError(
        "metadata['tests'] is missing: the reward needs the test cases of the prompt, in this or another known column"
    )


def _json(value: Any) -> Any:
    """The JSON value in a text; what is no text or no JSON as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _setup(there: Mapping[str, Any]) -> str:
    imports = there.get("test_imports")
    lines = [*imports] if isinstance(imports, list) else []
    return "\n".join([*map(str, lines), str(there.get("test_setup_code", ""))]).strip()


def _parsed(tests: Any, name: str, setup: str = "") -> list[Case]:
    """Cases from a value of any of the shapes."""
    value = _json(tests)
    if isinstance(value, str):
        if "assert" in value or "def check(" in value:
            return [_script_case(setup, value, name)]
        unpacked = _unpacked(value)
        return _parsed(unpacked, name, setup) if unpacked is not None else parse_cases(tests)
    if isinstance(value, Mapping):
        if {"inputs", "input"} & set(value):
            return _pairs(value, name)
        if "assert_case" in value:
            return _parsed(value["assert_case"], f"{name}.assert_case", setup)
        if any(value.get(one) is not None for one in _OWN):
            return parse_cases([value])
    if not isinstance(value, Sequence) or not value:
        return parse_cases(tests) if "tests" in name else _unknown(name)
    if all(isinstance(one, str) for one in value):
        return [_script_case(setup, one, f"{name}[{index}]") for index, one in enumerate(value)]
    if any(isinstance(one, Mapping) and any(one.get(key) is not None for key in _OWN) for one in value):
        return parse_cases(value)
    if all(isinstance(one, Mapping) and ("input" in one or "inputs" in one) for one in value):
        return [case for index, one in enumerate(value) for case in _foreign(one, f"{name}[{index}]")]
    return parse_cases(value)


def _unknown(name: str) -> list[Case]:
    raise ValueError(f"{name} holds no test case of a known kind")


def _foreign(test: Mapping[str, Any], name: str) -> list[Case]:
    """One case with `input` and `output`; `fn_name`, or a `func_name` among its metadata, make it a call."""
    about = _json(test.get("metadata"))
    named = about.get("func_name") if isinstance(about, Mapping) else None
    function = test.get("fn_name") or test.get("function_name") or named or ""
    if "inputs" in test:
        return _pairs({**test, "fn_name": function}, name)
    return [_pair(test.get("input"), test.get("output"), str(function), name)]


def _pairs(tests: Any, name: str) -> list[Case]:
    """Cases from parallel lists of inputs and outputs."""
    value = _json(tests)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object with inputs and outputs, not {type(value).__name__}")
    inputs, outputs = value.get("inputs", value.get("input")), value.get("outputs", value.get("output"))
    if inputs is None and outputs is None:
        return []
    inputs, outputs = _json(inputs), _json(outputs)
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError(f"{name}: inputs and outputs must be lists")
    if len(inputs) != len(outputs):
        raise ValueError(f"{name} has {len(inputs)} inputs for {len(outputs)} outputs")
    function = str(value.get("fn_name") or "")
    return [_pair(one, other, function, name) for one, other in zip(inputs, outputs, strict=True)]


def _pair(given: Any, expected: Any, function: str, name: str) -> Case:
    if not function:
        return StdinCase(_text(given, f"{name}: an input"), _text(expected, f"{name}: an output"))
    if isinstance(given, str):
        # One argument a line, each as JSON.
        given = [_json(line) for line in given.split("\n") if line.strip()]
    if isinstance(given, Mapping):
        given = list(given.values())
    if not isinstance(given, list):
        raise ValueError(f"{name}: the input of {function} must be its arguments, not {type(given).__name__}")
    result = _json(expected)
    check_call(function, given, result, name)
    return CallCase(function, given, result, or_first=True, imports=True)


def _text(value: Any, name: str) -> str:
    """A text for a program; a list of lines is one as well."""
    if isinstance(value, list):
        return "\n".join(_text(one, name) for one in value)
    if value is None:
        return ""
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise ValueError(f"{name} must be text, not {type(value).__name__}")


def _livecodebench(there: Mapping[str, Any]) -> list[Case]:
    """Public and private cases; those of a function have its name beside them."""
    about = _json(there.get("metadata"))
    function = str(about.get("func_name") or "") if isinstance(about, Mapping) else ""
    cases: list[Case] = []
    for column in ("public_test_cases", "private_test_cases"):
        value = _json(there.get(column))
        if isinstance(value, str):
            value = _unpacked(value)
            if value is None:
                raise ValueError(f"metadata[{column!r}] is neither JSON nor compressed JSON")
        for index, test in enumerate(value or []):
            name = f"metadata[{column!r}][{index}]"
            if not isinstance(test, Mapping):
                raise ValueError(f"{name} must be an object, not {type(test).__name__}")
            if test.get("testtype") == "functional" and not function:
                raise ValueError(f"{name} is of a function, but metadata['metadata'] has no func_name")
            cases.append(_pair(test.get("input"), test.get("output"), function, name))
    if not cases:
        raise ValueError("metadata['public_test_cases'] and ['private_test_cases'] hold no test case")
    return cases


class _TextUnpickler(pickle.Unpickler):
    """Unpickles texts and refuses everything that would need a class or a function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} has no place among test cases")


def _unpacked(text: str) -> Any:
    """The value in base64 of zlib of a pickled JSON text, as LiveCodeBench packs its tests; None if it is none."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
        if not unpacker.eof:
            return None
        value = _TextUnpickler(io.BytesIO(data)).load()
        return json.loads(value) if isinstance(value, str | bytes) else None
    except (ValueError, EOFError, IndexError, zlib.error, pickle.UnpicklingError, RecursionError, MemoryError):
        return None


def _script(test: str, entry: str, there: Mapping[str, Any], prompt: str) -> ScriptCase:
    """A script; the head that HumanEval's prompts are, or a column `prompt`, goes before program and tests."""
    setup = _setup(there)
    heads = (there.get("prompt"), prompt) if entry else ()
    head = next((one for one in heads if isinstance(one, str) and _is_python(one)), "")
    return _script_case(setup, test, "metadata['test']", entry, head)


def _script_case(setup: str, test: str, name: str, entry: str = "", prelude: str = "") -> ScriptCase:
    check_script(setup, test, entry, name)
    return ScriptCase(f"{setup}\n{test}" if setup else test, entry, prelude)


def _is_python(text: str) -> bool:
    try:
        compile(text, "prompt", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
