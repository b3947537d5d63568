import math
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import reward_plugins

from evolpo import InputError
from evolpo.rewards import FunctionReward, Reward, Sample, available_rewards, load_reward
from evolpo.rewards.options import fitting_options

FIELD = "rewards.components[0].use"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
DECLARED = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["evolpo.rewards"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution that is installed as far as importlib.metadata can tell."""
    info = tmp_path / "some_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-rewards\nVersion: 1.0\n")
    points = {**DECLARED, "wordiness": "reward_plugins:wordy"}
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[evolpo.rewards]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", [*DECLARED, "wordiness"])
def test_entry_points(name):
    needed = {"group_arena": {"judge": "rules"}, "rubric": {"judge": "rules", "rubric": "writing"}}
    assert name in available_rewards()
    assert isinstance(load_reward(name, FIELD, needed.get(name)), Reward)


@pytest.mark.usefixtures("installed")
def test_unknown_name_tells_what_there_is():
    with pytest.raises(InputError) as caught:
        load_reward("resoning_gym", FIELD)
    message = str(caught.value)
    assert message.startswith(f"{FIELD}: no reward is called 'resoning_gym'; did you mean 'reasoning_gym'?")
    assert f"installed: {', '.join(sorted([*DECLARED, 'wordiness']))};" in message
    assert "\n" not in message


def test_module_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_rewards.py").write_text(
        "from evolpo.rewards import sample_reward\n@sample_reward\ndef polite(sample):\n    return 1.0\n"
    )
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.chdir(tmp_path)
    assert load_reward("my_own_rewards:polite", FIELD).name == "polite"


def test_options_and_deadline_reach_the_function():
    reward = load_reward("reward_plugins:wordy", FIELD, {"word": "thanks"}, timeout_s=3.0)
    assert isinstance(reward, FunctionReward)
    assert (reward.options, reward.timeout_s) == ({"word": "thanks"}, 3.0)
    assert reward_plugins.wordy.options == {}
    kept = load_reward("reward_plugins:isolated", FIELD, timeout_s=3.0)
    assert isinstance(kept, FunctionReward)
    assert kept.timeout_s == 0.5


def test_class_is_built_with_the_options():
    reward = load_reward("reward_plugins:Counted", FIELD, {"failures": 2})
    assert isinstance(reward, reward_plugins.Counted)
    assert reward.failures == 2


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("nobody_wrote_this:f", {}, "there is no module 'nobody_wrote_this' in "),
        ("reward_plugins:wordly", {}, "has no attribute 'wordly'; did you mean 'wordy'?"),
        ("reward_plugins:misbehave", {}, "decorate it with @sample_reward or @group_reward"),
        ("reward_plugins:not_a_reward", {}, "is a int, no reward; it needs name, scope and score()"),
        ("reward_plugins:wordy", {"wrod": "x"}, "unexpected keyword argument 'wrod'"),
        ("reward_plugins:Counted", {"successes": 1}, "unexpected keyword argument 'successes'"),
        ("./plug:plain", {}, "'./plug:plain' is no module:attribute; write plug:plain; the module's folder must be"),
        ("plug.py:plain", {}, "'plug.py:plain' is no module:attribute; write plug:plain"),
        ("./sub/plug.py:plain", {}, "write sub.plug:plain; the module's folder"),
        ("plug.py", {}, "write plug:FUNCTION"),
        ("plug.plain", {}, "write plug:plain"),
        ("plug:", {}, "write plug:FUNCTION"),
        ("/opt/plug.py:plain", {}, "write it as in my_rewards:polite, for `polite` in my_rewards.py; the module's"),
        ("plug:plain()", {}, "write it as in my_rewards:polite"),
        (":plain", {}, "write it as in my_rewards:polite"),
    ],
)
def test_mistakes_are_one_line_with_the_field(use, options, message):
    with pytest.raises(InputError) as caught:
        load_reward(use, FIELD, options)
    assert str(caught.value).startswith((f"{FIELD}: ", f"rewards.components[0].options.{next(iter(options), '')}: "))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


NO_MESSAGE = "class E(BaseException):\n    def __str__(self):\n        raise RuntimeError\n    __repr__ = __str__\n"
PLUGIN = "name, scope = 'x', 'sample'\n    async def score(self, samples):\n        return []"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import nothing_of_this_name", "cannot be imported: "),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        (f"{NO_MESSAGE}raise E", "cannot be imported: E (its message cannot be shown)"),
        ("raise GeneratorExit", "cannot be imported: GeneratorExit"),
        ("raise KeyboardInterrupt", "cannot be imported: it raises KeyboardInterrupt"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGINT)", "it raises KeyboardInterrupt"),
        ("raise SystemExit(0)", "ends the program when it is imported"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args([])",
            "required: x); do that in",
        ),
        ("import os\nos._exit(0)", "ends the program when it is imported (exit code 0); do that in a function"),
        ("import os\nos._exit(3)", "ends the program when it is imported (exit code 3)"),
        ("import os\nos.abort()", "ends the program when it is imported (signal 6)"),
        ("def __getattr__(name):\n    raise SystemExit", "f cannot be looked up: SystemExit"),
        ("def __getattr__(name):\n    return 1 / 0", "f cannot be looked up: ZeroDivisionError"),
        (
            f"class f:\n    def __init__(self):\n        raise SystemExit(0)\n    {PLUGIN}",
            "cannot be made: SystemExit: 0",
        ),
        (
            f"class F:\n    {PLUGIN}\n    name = property(lambda self: 1 / 0)\nf = F()",
            "is no reward: ZeroDivisionError",
        ),
        (f"class f:\n    {PLUGIN}\n    scope = 'all'", "has the scope 'all'; a reward's is sample or group"),
        (f"class f:\n    {PLUGIN}\n    name = None", "has the name None; a reward's is a text"),
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_module_that_breaks_on_import(tmp_path, monkeypatch, body, message, adapted):
    (tmp_path / "breaks_on_import.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "breaks_on_import", raising=False)
    options = {"function": "breaks_on_import:f"} if adapted else {}
    if adapted and PLUGIN in body:
        return  # of objects an adapter asks something else
    with pytest.raises(InputError) as caught:
        load_reward("evolpo.rewards.adapters:verl" if adapted else "breaks_on_import:f", FIELD, options)
    start = "rewards.components[0].options.function: " if adapted else f"{FIELD}: "
    assert str(caught.value).startswith(f"{start}breaks_on_import")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_hangs_on_import_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "hangs_on_import.py").write_text("while True:\n    pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("evolpo.rewards.importing.START_TIMEOUT_S", 0.5)
    with pytest.raises(InputError, match=r"hangs_on_import was not imported within 0\.5 s"):
        load_reward("hangs_on_import:f", FIELD)


def typed(
    sample: Sample,
    *,
    xs: list[int] = [],  # noqa: B006
    d: dict | None = None,
    x: float = 1.0,
    pair: tuple[int, str] = (1, ""),
    by_level: Mapping[str, float] = {},
    one_or_more: int | list[int] = 1,
    modes: Sequence[Literal["a", "b"]] = (),
    path: Path = PYPROJECT,
    own: Reward | None = None,
) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("xs", ["1", 2], [1, 2]),
        ("xs", [], []),
        ("d", None, None),
        ("d", {"a": [1]}, {"a": [1]}),
        ("x", "3", 3.0),
        ("x", math.inf, math.inf),
        ("pair", [1, "a"], (1, "a")),
        ("by_level", {"easy": 1}, {"easy": 1.0}),
        ("one_or_more", 3, 3),
        ("one_or_more", [3, "4"], [3, 4]),
        ("modes", ["a"], ["a"]),
        ("path", "a/b", Path("a/b")),
        ("own", 3, 3),  # what nobody can check is taken as it is
    ],
)
def test_options_are_turned_into_what_annotations_say(name, given, taken):
    found = fitting_options(typed, {name: given}, "typed", first=1)[name]
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("xs", 5, "options.xs: 5 is no list[int]"),
        ("xs", "abc", "options.xs: 'abc' is no list[int]"),
        ("xs", {"a": 1}, "options.xs: {'a': 1} is no list[int]"),
        ("xs", None, "options.xs: None is no list[int]"),
        ("xs", [1, "a"], "options.xs[1]: 'a' is no int"),
        ("xs", [True], "options.xs[0]: True is no int"),
        ("xs", [1.5], "options.xs[0]: 1.5 is no int"),
        ("d", 3, "options.d: 3 is no dict | None"),
        ("d", [1], "options.d: [1] is no dict | None"),
        ("x", math.nan, "options.x: nan is no float; give a number"),
        ("x", "nan", "options.x: 'nan' is no float; give a number"),
        ("x", [1.0], "options.x: [1.0] is no float"),
        ("pair", [1], "options.pair: [1] is no tuple[int, str]: give 2 elements"),
        ("by_level", {"easy": "x"}, "options.by_level.easy: 'x' is no float"),
        ("by_level", {"easy": math.nan}, "options.by_level.easy: nan is no float"),
        ("one_or_more", "x", "options.one_or_more: 'x' is no int | list[int]"),
        ("modes", ["a", "c"], "options.modes[1]: 'c' is no Literal['a', 'b']"),
        ("path", 3, "options.path: 3 is no Path"),
    ],
)
def test_options_that_do_not_fit_are_named(name, given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        fitting_options(typed, {name: given}, "typed", first=1)


def test_isolated_function_that_no_other_process_can_import(tmp_path, monkeypatch):
    (tmp_path / "hidden_function.py").write_text(
        "from evolpo.rewards import sample_reward\n"
        "hidden = [sample_reward(isolate=True)(lambda sample: 1.0)]\n"
        "class Place:\n    hidden = hidden[0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"components\[0\]\.use: isolate=True cannot run hidden_function\.<lambda>"):
        load_reward("hidden_function:Place.hidden", FIELD)
