"""Where a response ends: by the tokens that the model's files name, and by the one that its chat template writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from evolpo import InputError
from evolpo.rollout.data.render import RenderError, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "evolpo-mark"
"""Stands for an answer when the template is asked what it writes after one."""


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an answer; None without a template, or if it writes none.

    Raises:
        InputError: the template takes too long or too much memory.
    """
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}]
    try:
        text = render(tokenizer, messages)
    except RenderError as error:
        if error.broken:
            raise InputError(f"model.path: its chat template fails ({error}); give another model") from None
        return None
    after = text.rpartition(MARK)[2].strip()
    ids = list(tokenizer(after, add_special_tokens=False)["input_ids"])
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return ids[0] if ids and ids[0] in special else None


def answer_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token by which an answer to be learned ends: the template's, or the tokenizer's end of sequence.

    Raises:
        InputError: there is neither.
    """
    end = turn_end(tokenizer)
    end = tokenizer.eos_token_id if end is None else end
    if end is None:
        raise InputError(
            "model.path: neither its chat template nor its tokenizer has an end of sequence; set eos_token in"
            " tokenizer_config.json"
        )
    return int(end)


def end_tokens(tokenizer: PreTrainedTokenizerBase, named: Iterable[int | Iterable[int] | None] = ()) -> list[int]:
    """All tokens that end a response, rising.

    Args:
        tokenizer: its end of sequence, and what its chat template writes after an answer.
        named: ends that configurations name, one or several each.
    """
    ends: set[int] = set()
    for entry in (*named, tokenizer.eos_token_id, turn_end(tokenizer)):
        ends |= set() if entry is None else {entry} if isinstance(entry, int) else set(entry)
    return sorted(ends)


def response_text(
    token_ids: Sequence[int], ends: Sequence[int], tokenizer: PreTrainedTokenizerBase, special_tokens: bool
) -> str:
    """What a response says, without the token that ended it.

    Args:
        token_ids: of the whole response.
        ends: the tokens that end one.
        tokenizer: the model's.
        special_tokens: whether special tokens stay in the text.
    """
    written = token_ids[:-1] if token_ids and token_ids[-1] in ends else token_ids
    return str(tokenizer.decode(list(written), skip_special_tokens=not special_tokens))
