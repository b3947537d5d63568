"""From a problem to tokens: text gets its messages made, messages stay as they are."""

import pytest
from tiny_tokenizers import CHATML, make_tokenizer

from evolpo import InputError
from evolpo.rollout.data.chat import encode_problems, encode_prompt, message_text, message_tokens
from evolpo.rollout.data.problem import Problem
from evolpo.rollout.prompts import DataConfig

TOKENIZER = make_tokenizer(CHATML)
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "2 + 3?"},
)
TOOLS_TEMPLATE = (
    "{% if tools %}[{% for t in tools %}{{ t.name }} {% endfor %}]{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<no thoughts>{% endif %}"
)


def text_of(problem, tokenizer=TOKENIZER, **options):
    return tokenizer.decode(encode_prompt(problem, tokenizer, DataConfig(**options)).token_ids)


@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[1:2], TALK[:2]])
def test_messages_go_through_the_template_as_they_are(messages):
    own = TOKENIZER.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    assert list(encode_prompt(Problem("x", "t", messages=messages), TOKENIZER, DataConfig()).token_ids) == own


def test_what_the_configuration_names_is_added_to_messages():
    named = {"system_prompt": "Think.", "instruction": "Use a box."}
    problem = Problem("x", "t", messages=TALK)
    assert text_of(problem, **named) == text_of(problem).replace("2 + 3?", "2 + 3?\nUse a box.")
    alone = Problem("x", "t", messages=TALK[1:2])
    assert text_of(alone, **named).startswith("<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nHi\nUse a box.<")


def test_a_rows_own_system_message_goes_before_that_of_the_configuration():
    for options in ({}, {"system_prompt": "Think."}):
        assert text_of(Problem("x", "2", system="Be brief."), **options).startswith("<|im_start|>system\nBe brief.<")
    assert text_of(Problem("x", "2", system=""), instruction="").startswith("<|im_start|>user\n2<")
    assert text_of(Problem("x", "2"), system_prompt="").startswith("<|im_start|>user\n2\nPut the final answer")


def test_tools_and_keyword_arguments_reach_the_template(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(TOOLS_TEMPLATE)
    problem = Problem("x", "t", messages=TALK[1:2], tools=({"name": "add"}, {"name": "sub"}))
    options = {"chat_template": str(path), "chat_template_kwargs": {"enable_thinking": False}}
    assert text_of(problem, **options) == "[add sub ]user:Hi|<no thoughts>"
    assert text_of(problem, make_tokenizer(None), chat_template=str(path)) == "[add sub ]user:Hi|"
    assert text_of(problem, make_tokenizer(TOOLS_TEMPLATE)) == "[add sub ]user:Hi|"


@pytest.mark.parametrize("arguments", ["{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}"])
def test_templates_get_the_arguments_of_calls_as_they_want_them(arguments):
    calls = "{% for c in m.tool_calls or [] %}" + arguments + "{% endfor %}"
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.role }}:{{ m.content }}" + calls + "|{% endfor %}")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "ü"}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert message_text(tokenizer, messages) == 'user:x|assistant:{"a": "ü"}|'


def test_turns_without_a_template():
    plain = make_tokenizer(None)
    expected = "<s>Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: 2 + 3?\n\nAssistant:"
    assert plain.decode(message_tokens(plain, TALK)) == expected
    for messages, tools, what in (
        ([{"role": "tool", "content": "5"}], (), "messages of tool"),
        (TALK, ({"name": "add"},), "tools"),
    ):
        with pytest.raises(InputError, match=rf"^data\.chat_template: the tokenizer has none, and {what} need one"):
            message_tokens(plain, messages, tools=tools)


def test_templates_that_fail_are_one_line_with_the_row(tmp_path):
    strict = make_tokenizer("{{ raise_exception('roles must alternate') }}")
    problem = Problem("x", "t", messages=TALK, place="rows.jsonl line 7")
    with pytest.raises(InputError, match=r"refuses messages of system, user, assistant, user \(roles must.*line 7$"):
        encode_prompt(problem, strict, DataConfig())
    path = tmp_path / "broken.jinja"
    path.write_text("{% for m in messages %}")
    with pytest.raises(InputError, match=r"^data\.chat_template: the template in .*broken\.jinja fails"):
        encode_prompt(problem, TOKENIZER, DataConfig(chat_template=str(path)))
    with pytest.raises(InputError, match=r"^data\.chat_template: there is no file nowhere\.jinja"):
        DataConfig(chat_template="nowhere.jinja")


def test_prompts_that_are_too_long_are_noted_once():
    notes = []
    problems = [Problem(str(i), "x" * (10 * i)) for i in range(10)]
    config = DataConfig(system_prompt="", instruction="", max_prompt_tokens=80)
    kept = encode_problems(problems, TOKENIZER, config, notes.append, "data.heldout")
    dropped = 10 - len(kept)
    over = "over 80 tokens (data.max_prompt_tokens), the longest has 109"
    assert notes == [f"data.heldout: {dropped} of 10 prompts dropped: {over}"]
    assert len(encode_problems(problems[:1], TOKENIZER, config, notes.append)) == len(notes) == 1


def test_task_and_typed_answer_reach_the_prompt():
    prompt = encode_prompt(Problem("x", "t", [1, 2], task="sums"), TOKENIZER, DataConfig())
    assert (prompt.answer, prompt.task) == ([1, 2], "sums")
