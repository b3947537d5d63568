"""The chat template: from a problem to the tokens that the engine is given."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolpo import InputError
from evolpo.rl.data import Prompt
from evolpo.rollout.data.config import DataConfig
from evolpo.rollout.data.messages import Message, system_of, with_text_arguments
from evolpo.rollout.data.problem import Problem
from evolpo.rollout.data.reach import Reach, control_tokens
from evolpo.rollout.data.render import RenderError, render
from evolpo.rollout.sources import Note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_RAW_ROLES = {"user": "User: ", "assistant": "Assistant: ", "system": ""}


def user_message(text: str, instruction: str) -> str:
    """What the user says: the problem, then the instruction on a line of its own."""
    return f"{text}\n{instruction}" if instruction else text


def conversation(problem: Problem, config: DataConfig) -> list[Message]:
    """The messages of a problem.

    Text gets the system message and the instruction. Messages stay as they are; only a `system_prompt` and an
    `instruction` that the configuration names are added to them, the first where they have no system message.
    """
    if not problem.messages:
        system = config.text_system if problem.system is None else problem.system
        instruction = config.code_instruction if problem.code else config.text_instruction
        return two_messages(system, user_message(problem.text, instruction))
    messages = list(problem.messages)
    if config.instruction and messages[-1]["role"] == "user":
        messages[-1] = {**messages[-1], "content": user_message(messages[-1]["content"], config.instruction)}
    if config.system_prompt and system_of(messages) is None:
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    return messages


def two_messages(system: str, user: str) -> list[Message]:
    """A system message, left out if it is empty, and a user's."""
    messages: list[Message] = [{"role": "user", "content": user}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def chat_tokens(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> tuple[int, ...]:
    """Token ids of a system and a user message, ready for the response; see `message_tokens`."""
    return message_tokens(tokenizer, two_messages(system, user))


def message_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    config: DataConfig | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[int, ...]:
    """Token ids of a conversation, ready for the response; see `message_text`."""
    return text_tokens(tokenizer, message_text(tokenizer, messages, config, tools), config)


def message_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    config: DataConfig | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A conversation as it is written, ready for the response.

    A tokenizer with a chat template uses it, or that of `config.chat_template`. One without gets the turns as
    `SYSTEM\\n\\nUser: USER\\n\\nAssistant:`.

    Raises:
        InputError: the chat template refuses the messages or is none, or there is none for these roles or tools.
    """
    if not has_template(tokenizer, config):
        return _plain(messages, tools)
    options: dict[str, Any] = {
        "tools": [dict(tool) for tool in tools] or None,
        "chat_template": _template_file(config.chat_template) if config and config.chat_template else None,
        "add_generation_prompt": True,
        **(config.chat_template_kwargs if config else {}),
    }
    try:
        return render(tokenizer, messages, **options)
    except RenderError as error:
        if not error.broken and any(one.get("tool_calls") for one in messages):
            with suppress(RenderError):
                return render(tokenizer, with_text_arguments(messages), **options)
        raise InputError(_refusal(messages, config, error)) from error


def has_template(tokenizer: PreTrainedTokenizerBase, config: DataConfig | None) -> bool:
    """Whether conversations go through a chat template, of one's own or of the tokenizer."""
    return bool(config and config.chat_template) or bool(tokenizer.chat_template)


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str, config: DataConfig | None = None) -> tuple[int, ...]:
    """Token ids of what `message_text` wrote.

    A template has written the special tokens itself; without one come those that the tokenizer adds to any text, such
    as the beginning of sequence.
    """
    add = not has_template(tokenizer, config)
    return tuple(tokenizer(text, add_special_tokens=add)["input_ids"])


def reach_of(tokenizer: PreTrainedTokenizerBase, config: DataConfig | None = None) -> Reach:
    """What looks at prompts as they are written; see `Reach`."""
    own = config.chat_template if config else ""
    name = f"the template in {own}" if own else "the chat template of the tokenizer"
    return Reach(functools.partial(_written, tokenizer, config), control_tokens(tokenizer), name)


def _written(
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig | None,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
) -> str:
    return message_text(tokenizer, messages, config, tools)


def _refusal(messages: Sequence[Message], config: DataConfig | None, reason: RenderError) -> str:
    if config and config.chat_template:
        return f"data.chat_template: the template in {config.chat_template} fails ({reason}); mend it"
    if reason.broken:
        return f"data.chat_template: that of the tokenizer fails ({reason}); give a template of your own"
    if [message["role"] for message in messages] == ["system", "user"]:
        return f'data.system_prompt: the chat template of the tokenizer refuses it ({reason}); use "" for none'
    roles = ", ".join(message["role"] for message in messages)
    return (
        f"data.chat_template: that of the tokenizer refuses messages of {roles} ({reason}); "
        "give a template of your own, or other data.chat_template_kwargs"
    )


@functools.lru_cache(maxsize=1)
def _template_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.chat_template: {path} cannot be read: {error}") from error


def _plain(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    others = {message["role"] for message in messages} - set(_RAW_ROLES)
    if others or tools:
        what = "tools" if tools else f"messages of {', '.join(sorted(others))}"
        raise InputError(
            f"data.chat_template: the tokenizer has none, and {what} need one; give a file with a template"
        )
    turns = [f"{_RAW_ROLES[message['role']]}{message['content']}" for message in messages]
    return "\n\n".join([*turns, "Assistant:"])


def encode_prompt(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, config: DataConfig, reach: Reach | None = None
) -> Prompt:
    """The problem inside the chat template; the length is not checked.

    Args:
        problem: what to ask.
        tokenizer: has the chat template, unless `config` has another.
        config: how a problem becomes a prompt.
        reach: looks at what is written; None for nobody.

    Raises:
        InputError: the chat template refuses the problem, or leaves out what it must not.
    """
    messages = conversation(problem, config)
    try:
        text = message_text(tokenizer, messages, config, problem.tools)
    except InputError as error:
        if not problem.messages:
            raise
        raise InputError(f"{error}; the row is {problem.place}") from error
    if reach is not None:
        reach.look(messages, problem.tools, text, problem.place)
    return prompt_of(problem, text_tokens(tokenizer, text, config))


def prompt_of(problem: Problem, token_ids: tuple[int, ...] = ()) -> Prompt:
    """The prompt of a problem; without tokens it is what a reward may look at."""
    return Prompt(
        problem.id, problem.text, token_ids, problem.answer, problem.difficulty, problem.metadata, problem.task
    )


def encode_problems(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    note: Note = logger.warning,
    field: str = "data.train",
) -> list[tuple[Problem, Prompt]]:
    """Encode all problems; those over `max_prompt_tokens` are dropped.

    The drops are noted, and what of the prompts does not reach the model as it stands in the data.

    Raises:
        InputError: not one problem fits, or the chat template leaves out what it must not.
    """
    reach = reach_of(tokenizer, config)
    pairs = [(problem, encode_prompt(problem, tokenizer, config, reach)) for problem in problems]
    for line in reach.notes():
        note(f"{field}: {line}")
    kept = [pair for pair in pairs if len(pair[1].token_ids) <= config.max_prompt_tokens]
    limit = config.max_prompt_tokens
    if pairs and not kept:
        shortest = min(len(prompt.token_ids) for _, prompt in pairs)
        raise InputError(
            f"data.max_prompt_tokens: all {len(pairs)} prompts are longer than {limit} tokens; set at least {shortest}"
        )
    if len(kept) < len(pairs):
        dropped = len(pairs) - len(kept)
        longest = max(len(prompt.token_ids) for _, prompt in pairs)
        over = f"over {limit} tokens (data.max_prompt_tokens), the longest has {longest}"
        note(f"{field}: {dropped} of {len(pairs)} prompts dropped: {over}")
    return kept
