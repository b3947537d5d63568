import tomllib
from pathlib import Path

import pytest
import reward_plugins

from evolpo import InputError
from evolpo.rewards import FunctionReward, Reward, available_rewards, load_reward

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
    ],
)
def test_mistakes_are_one_line_with_the_field(use, options, message):
    with pytest.raises(InputError) as caught:
        load_reward(use, FIELD, options)
    assert str(caught.value).startswith(f"{FIELD}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", ["import nothing_of_this_name", "def broken(:", "1 / 0"])
def test_module_that_breaks_on_import(tmp_path, monkeypatch, body):
    (tmp_path / "breaks_on_import.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"breaks_on_import cannot be imported: "):
        load_reward("breaks_on_import:f", FIELD)


def test_isolated_function_that_no_other_process_can_import(tmp_path, monkeypatch):
    (tmp_path / "hidden_function.py").write_text(
        "from evolpo.rewards import sample_reward\n"
        "hidden = [sample_reward(isolate=True)(lambda sample: 1.0)]\n"
        "class Place:\n    hidden = hidden[0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"components\[0\]\.use: isolate=True cannot run hidden_function\.<lambda>"):
        load_reward("hidden_function:Place.hidden", FIELD)
