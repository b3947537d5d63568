"""Chat templates that never end, fill the memory, call themselves or refuse: a line, whatever they do."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer
from evolpo.recipes import model as command
from evolpo.recipes.config import ModelCheckConfig
from evolpo.rollout.data import render as rendering
from evolpo.rollout.data.chat import message_tokens
from evolpo.rollout.data.config import DataConfig
from evolpo.rollout.data.render import RenderError, render
from evolpo.rollout.ends import turn_end

QUESTION = [{"role": "user", "content": "how much?"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BROKEN = {
    "loops": (LOOPS, "processor time"),
    "loops_inside": ("{% for a in range(99999) %}" * 5 + "{% endfor %}" * 5, "processor time"),
    "product": ("{{ 'x' * 10**10 }}", "memory"),
    "product_of_list": ("{{ [0] * 10**10 }}", "memory"),
    "method": ("{{ 'x'.center(10**10) }}", "memory"),
    "grows": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "memory",
    ),
    "calls_itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself"),
}
REFUSED = {
    "raises": ("{{ raise_exception('no questions here') }}", "no questions here"),
    "syntax": ("{% for %}", "Expected"),
    "range": ("{{ range(10**9) | list }}", "Range too big"),
    "unsafe": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "type": ("{{ 1 + 'a' }}", "unsupported operand"),
}


@pytest.fixture
def tokenizer(tiny_model_path, monkeypatch):
    monkeypatch.setattr(rendering, "CPU_S", 1.5)
    return load_tokenizer(tiny_model_path)


@pytest.mark.parametrize("kind", [*BROKEN, *REFUSED])
def test_a_template_that_breaks_a_bound_or_refuses_is_one_line(tokenizer, kind):
    tokenizer.chat_template, part = (BROKEN | REFUSED)[kind]
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        message_tokens(tokenizer, QUESTION)
    assert time.monotonic() - began < 20
    assert str(caught.value).startswith("data.chat_template: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind in BROKEN:
        with pytest.raises(InputError, match="its chat template fails"):
            turn_end(tokenizer)
    else:
        assert turn_end(tokenizer) is None


def test_one_row_that_never_ends_is_a_line_and_the_others_are_rendered(tokenizer):
    tokenizer.chat_template = "{% if 'loop' in messages[0].content %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
    assert render(tokenizer, QUESTION) == "how much?"
    with pytest.raises(RenderError, match="processor time"):
        render(tokenizer, [{"role": "user", "content": "loop"}])
    assert render(tokenizer, QUESTION) == "how much?"


def test_a_file_of_the_users_own_is_bounded_too(tokenizer, tmp_path):
    (tmp_path / "own.jinja").write_text(LOOPS)
    with pytest.raises(InputError, match=r"data\.chat_template: the template in .*own\.jinja fails"):
        message_tokens(tokenizer, QUESTION, DataConfig(chat_template=str(tmp_path / "own.jinja")))


def test_what_is_rendered_is_what_transformers_renders(tokenizer):
    for messages in (
        QUESTION,
        [{"role": "system", "content": "ü"}, *QUESTION],
        [{"role": "user", "content": "x" * 10**6}],
    ):
        for options in ({}, {"add_generation_prompt": True}, {"chat_template": "{{ messages | length }}", "own": 3}):
            assert render(tokenizer, messages, **options) == tokenizer.apply_chat_template(
                messages, tokenize=False, **options
            )


def test_a_changed_template_counts_at_once(tokenizer):
    for text in ("one", "two"):
        tokenizer.chat_template = text
        assert render(tokenizer, QUESTION) == text


def test_a_process_that_has_gone_is_started_anew_and_a_killed_one_is_told(tokenizer, monkeypatch):
    monkeypatch.setattr(rendering, "IDLE_S", 0.05)
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert render(tokenizer, QUESTION) == "how much?"
    time.sleep(0.3)
    assert render(tokenizer, QUESTION) == "how much?"
    monkeypatch.setattr(rendering, "IDLE_S", 10)
    rendering._close()
    tokenizer.chat_template = "{{ messages[0].content }}{% if messages[0].content == 'x' %}" + LOOPS + "{% endif %}"
    render(tokenizer, QUESTION)
    pid = rendering._process.pid
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(RenderError, match="killed"):
        render(tokenizer, [{"role": "user", "content": "x"}])


def test_the_process_has_none_of_our_files_and_ends_with_us(tokenizer):
    rendering._close()
    render(tokenizer, QUESTION)
    pid = rendering._process.pid
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 5
    rendering._close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("kind", ["loops", "product", "calls_itself", "raises", "syntax", "silent"])
def test_a_model_with_such_a_template_is_not_said_to_be_trained(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(rendering, "CPU_S", 0.5)
    write_tiny_model(tmp_path)
    text = {**BROKEN, **REFUSED, "silent": ("<|assistant|>", "")}[kind][0]
    (tmp_path / "chat_template.jinja").write_text(text)
    with pytest.raises(InputError, match=r"^model\.path: .* its chat template (fails on a question|leaves out)"):
        command.check(ModelCheckConfig(ModelConfig(path=str(tmp_path))))
    assert "cannot train it" in " ".join(capsys.readouterr().out.split())
