"""Where responses end, for chat templates and tokenizers of many kinds."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evolpo import InputError
from evolpo.rollout.ends import answer_end, end_tokens, turn_end

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "<|user|>", "<|return|>"]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} </s>"
    "{% endif %}{% endfor %}"
)
TRIMMED = "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<think>\n\n</think>{% endif %}{{ m.content }}<|return|>"
    "{% endfor %}"
)
ROLES_ONLY = "{% for m in messages %}<|user|>\n{{ m.content }}{% endfor %}"
REFUSING = "{{ raise_exception('only users') }}"
PLAIN_TEXT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n###\n{% endfor %}"


def make_tokenizer(template=None, eos=None):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (SPACED, "</s>"),
        (TRIMMED, "<|eot_id|>"),
        (THINKING, "<|return|>"),
        (ROLES_ONLY, None),
        (REFUSING, None),
        (PLAIN_TEXT, None),
        (None, None),
    ],
)
def test_the_template_says_how_an_answer_ends(template, end):
    tokenizer = make_tokenizer(template, "<|endoftext|>")
    found = turn_end(tokenizer)
    assert found is None if end is None else tokenizer.convert_ids_to_tokens(found) == end
    assert tokenizer.convert_ids_to_tokens(answer_end(tokenizer)) == (end or "<|endoftext|>")


def test_all_ends_of_all_files_count():
    tokenizer = make_tokenizer(CHATML, "<|endoftext|>")
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    assert end_tokens(tokenizer) == sorted([ids["<|endoftext|>"], ids["<|im_end|>"]])
    named = [ids["</s>"], ids["<|im_end|>"]]
    assert end_tokens(tokenizer, (named, None, 7)) == sorted({7, *named, ids["<|endoftext|>"]})
    assert end_tokens(make_tokenizer(), ()) == []


def test_an_answer_without_an_end_cannot_be_learned():
    with pytest.raises(InputError, match="eos_token"):
        answer_end(make_tokenizer(PLAIN_TEXT))
