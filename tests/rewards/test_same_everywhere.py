"""`evolpo score`, `check_reward` and the stack run a plugin in the same way, which is that of a script of its own."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import reward_plugins

from evolpo import InputError
from evolpo.recipes.score import ScoreConfig, score
from evolpo.rewards import RewardsConfig, RewardSpec, RewardStack, load_reward, sample_reward
from evolpo.rewards.testing import check_reward, make_sample
from evolpo.rl.data import Group, Prompt, Response

TEXTS = ["a", "bb", "ccc"]


def three_ways(name, folder, texts=TEXTS, **settings):
    """Values by `evolpo score`, by `check_reward` and by the stack."""
    use = f"reward_plugins:{name}"
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps({"prompt": "p", "response": text}) + "\n" for text in texts))
    by_score = [one.value for one in score(ScoreConfig(use=use, file=str(file), **settings)).scores]
    reward = load_reward(use, "use", {}, settings.get("timeout_s", 10.0))
    by_check = [one.value for one in check_reward(reward, [make_sample(text=text) for text in texts])]
    responses = tuple(Response((1,), text, (0.0,), "stop") for text in texts)
    with closing(RewardStack(RewardsConfig([RewardSpec(use)], **settings))) as stack:
        [group] = stack.score([Group(Prompt("p", "p", (1,)), responses)])
    return by_score, by_check, list(group.rewards)


@pytest.mark.parametrize(
    "name",
    [
        *("own_event_loop", "own_signal", "own_signal_in_coroutine", "alarm_left_behind", "slow_first"),
        *("length_by_partial", "length_by_object", "length_by_lambda"),
    ],
)
def test_plugins_find_what_they_would_find_in_a_script(name, tmp_path):
    assert three_ways(name, tmp_path) == ([1.0, 2.0, 3.0],) * 3


def judged(reward, *texts):
    return asyncio.run(reward.score([make_sample(text=text) for text in texts]))


def test_what_only_this_process_has_runs_here():
    seen = []

    @sample_reward(timeout_s=0.5)
    def closure(sample):
        seen.append(sample.text)
        if sample.text == "hang":
            time.sleep(2)
        return asyncio.run(asyncio.sleep(0, result=float(len(sample.text))))

    first, hung, last = judged(closure, "a", "hang", "bb")
    assert (first.value, hung.status, last.value) == (1.0, "timeout", 2.0)
    assert hung.error == "no result within 0.5 s from closure"
    time.sleep(2)
    assert seen == ["a", "hang", "bb"]  # What was left behind does nothing more.


def test_coroutine_that_blocks_is_the_only_one_to_fail():
    judged(reward_plugins.blocks, "warm")
    scores = judged(reward_plugins.blocks, "a", "block", "bb", "ccc")
    assert [one.status for one in scores] == ["ok", "timeout", "ok", "ok"]
    assert "blocks its event loop from blocks" in scores[1].error


def test_coroutine_that_refuses_to_end_times_out():
    first, hung = judged(reward_plugins.refuses_to_end, "a", "stay")
    assert (first.value, hung.status) == (1.0, "timeout")


def test_what_arrives_late_does_not_count():
    judged(reward_plugins.late, "0")
    assert [one.status for one in judged(reward_plugins.late, "0", "0.5", "0")] == ["ok", "timeout", "ok"]


def sleeping(number):
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            found += [folder.name] if words[:2] == [b"sleep", number.encode()] and state != "Z" else []
    return found


def test_children_of_a_killed_worker_go_with_it():
    judged(reward_plugins.with_children, "")
    [score_of_hang] = judged(reward_plugins.with_children, "987.25")
    assert score_of_hang.status == "timeout"
    assert all_gone("987.25")


def all_gone(number):
    deadline = time.monotonic() + 5
    while sleeping(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not sleeping(number)


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["evolpo", "score", "reward_plugins:with_children", sys.argv[1], "timeout_s=50"]
from evolpo.recipes.cli import main
print("started", flush=True)
main()
"""


def test_ctrl_c_ends_scoring_and_leaves_no_child(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text('{"prompt": "p", "response": "986.25"}\n')
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{INTERRUPTED}"
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(sleeping("986.25")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        process.send_signal(2)
        process.wait(timeout=30)
        assert time.monotonic() - started < 10  # A second on a machine with nothing else to do.
        assert process.returncode == 130
    assert all_gone("986.25")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys\nsys.exit(3)\n", "ends the program when it is imported"),
        (
            "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--must', required=True)\n"
            "parser.parse_args([])\n",
            r"ends the program when it is imported \(.*required: --must\)",
        ),
        ("raise RuntimeError('no\\ndevice')\n", r"RuntimeError: no device \(quits_on_import.py:1\)"),
    ],
)
@pytest.mark.parametrize("use", ["quits_on_import:f", "evolpo.rewards.adapters:verl"])
def test_module_that_quits_on_import_is_one_line(body, message, use, tmp_path, monkeypatch, capfd):
    (tmp_path / "quits_on_import.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"function": "quits_on_import:f"} if use.endswith("verl") else {}
    with pytest.raises(InputError, match=message) as caught:
        load_reward(use, "use", options)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_options_are_what_the_annotations_say():
    reward = load_reward(
        "reward_plugins:coerced", "use", {"count": "3", "share": 1, "flag": "no", "word": 7, "maybe": None}
    )
    assert reward.options == {"count": 3, "share": 1.0, "flag": False, "word": "7", "maybe": None}
    assert [type(value) for value in reward.options.values()] == [int, float, bool, str, type(None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "three"}, "options.count: 'three' is no int"),
        ({"count": True}, "options.count: True is no int"),
        ({"count": 1.5}, "options.count: 1.5 is no int"),
        ({"flag": "maybe"}, "options.flag: 'maybe' is no bool"),
        ({"flga": True}, "did you mean 'flag'?; coerced takes count, share, flag, word, maybe"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        load_reward("reward_plugins:coerced", "use", options)
    assert message in str(caught.value)


def test_edited_module_is_loaded_anew(tmp_path, monkeypatch):
    import importlib

    source = "from evolpo.rewards import sample_reward\n@sample_reward\ndef edited(sample):\n    return {}\n"
    path = tmp_path / "edited_plugin.py"
    path.write_text(source.format("1.0"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("edited_plugin")
    assert judged(module.edited, "x")[0].value == 1.0
    path.write_text(source.format("22.0"))
    assert judged(importlib.reload(module).edited, "x")[0].value == 22.0


def test_folder_and_environment_of_the_asker_are_those_of_the_plugin(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text(
        "import os\nfrom evolpo.rewards import sample_reward\n@sample_reward\ndef here(sample):\n"
        "    return float(open('value').read()) + float(os.environ['REWARD_TEST'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import here

    for value in ("1", "2"):
        folder = tmp_path / value
        folder.mkdir()
        (folder / "value").write_text(value)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("REWARD_TEST", f"{value}0")
        assert judged(here.here, "x")[0].value == 11.0 * float(value)
