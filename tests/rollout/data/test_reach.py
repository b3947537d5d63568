"""What a chat template leaves out of a conversation is refused or said; text that becomes control tokens is said."""

import pytest
from tiny_tokenizers import CHATML, make_tokenizer

from evolpo import InputError
from evolpo.recipes.dft_data import Example
from evolpo.recipes.sft import encode_examples
from evolpo.rollout.data.chat import encode_problems
from evolpo.rollout.data.problem import Problem
from evolpo.rollout.prompts import DataConfig

NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content | trim }}|{% endfor %}"
LAST_TURN = "user:{{ messages[-1].content }}|assistant:"
NO_THOUGHTS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content.split('</think>')[-1].strip() if m.role == 'assistant' "
    "else m.content }}|{% endfor %}"
)
CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% endfor %}|{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TALK = (
    {"role": "user", "content": "2 + 3?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "5", "tool_call_id": "1"},
)
OLD_CALL = {"role": "assistant", "content": "", "function_call": CALL["function"]}
TURNS = (
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "<think>how</think> second"},
    {"role": "user", "content": "third"},
)


def notes_of(template, *problems, **options):
    notes = []
    config = DataConfig(max_prompt_tokens=10_000, **options)
    encode_problems(list(problems), make_tokenizer(template), config, notes.append)
    return notes


def asked(text, number=1, **more):
    return Problem(str(number), text, place=f"rows.jsonl line {number}", **more)


@pytest.mark.parametrize(
    ("template", "problem", "what"),
    [
        ("Hello! How can I help?", asked("2 + 3"), "what the user says"),
        (NO_SYSTEM.replace("!= 'system'", "== 'human'"), asked("2 + 3"), "what the user says"),
        ("{{ messages[0].content }}", asked("x", messages=TURNS), "what the user says"),
        (CHATML, asked("2 + 3", tools=({"name": "add"},)), "the tools of the data"),
        (CHATML, asked("x", messages=TALK), "the calls of tools"),
        (CALLS, asked("x", messages=(TALK[0], OLD_CALL, TALK[2])), "the calls of tools"),
    ],
)
def test_what_a_template_must_not_leave_out(template, problem, what):
    with pytest.raises(InputError) as caught:
        notes_of(template, problem)
    message = str(caught.value)
    assert message.startswith(f"data.chat_template: the chat template of the tokenizer leaves out {what}")
    assert message.endswith("; the row is rows.jsonl line 1")


def test_a_file_with_a_template_is_named(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("always this")
    with pytest.raises(InputError, match=r"template: the template in .*own\.jinja leaves out what the user"):
        notes_of(CHATML, asked("2 + 3"), chat_template=str(path))


def test_what_is_there_is_not_spoken_of():
    whole = [asked("2 + 3", tools=({"name": "add"},)), asked("x", messages=TALK), asked("x", messages=TURNS)]
    assert notes_of(CALLS, *whole) == []
    assert notes_of(NO_THOUGHTS, asked("x", messages=TURNS)) == []
    assert notes_of(NO_SYSTEM, asked("  2\n+ 3 "), system_prompt="") == []  # trimmed
    assert notes_of(None, asked("2 + 3"), asked("x", messages=TURNS)) == []
    assert notes_of(CHATML, asked("a < b, <div>, <|a|>, </s >")) == []


def test_messages_that_are_left_out_are_counted():
    line = "data.train: warning: {} that the chat template of the tokenizer leaves out, first rows.jsonl line 1"
    two = [asked("one"), asked("two", 2)]
    assert notes_of(NO_SYSTEM, *two) == [line.format("2 prompts have a message of 'system'")]
    [first, second] = notes_of(LAST_TURN, asked("x", messages=TURNS))
    assert first == line.format("1 prompts have a message of 'user'")
    assert second == line.format("1 prompts have a message of 'assistant'")


def test_text_that_becomes_control_tokens_is_counted():
    prompts = [asked("a<|im_end|>b<|im_end|>"), asked("plain", 2), asked("<s>c<|im_end|>", 3)]
    what = "in their text, which the tokenizer takes for a control token"
    found = sorted(notes_of(CHATML, *prompts))
    assert found == [
        f"data.train: warning: 1 prompts hold <s> {what}, first rows.jsonl line 3",
        f"data.train: warning: 2 prompts hold <|im_end|> {what}, first rows.jsonl line 1",
    ]
    assert sorted(notes_of(None, *prompts)) == found


def test_supervised_examples_are_looked_at_as_well():
    examples = [Example("Be brief.", "1 + 1", "2", place="a.jsonl line 1")]
    tokenizer, notes = make_tokenizer(NO_SYSTEM), []
    tokenizer.eos_token = "<|im_end|>"
    encode_examples(examples, tokenizer, DataConfig(), notes.append)
    left_out = "that the chat template of the tokenizer leaves out, first a.jsonl line 1"
    assert notes == [f"warning: 1 prompts have a message of 'system' {left_out}"]
    tokenizer.chat_template = "constant"
    with pytest.raises(InputError, match="leaves out what the user says"):
        encode_examples(examples, tokenizer)
