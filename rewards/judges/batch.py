"""A judge in this process: calls that arrive together become one batch of a model that answers lists."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from evolpo.rewards.judges.judge import JudgeError, Message, Reply, chat_format
from evolpo.rewards.service.workers import describe

Chat = list[dict[str, Any]]


class BatchJudge:
    """Turns `generate`, chats in and texts out, into a judge.

    While one batch runs in a thread, what arrives gathers into the next; `generate` never runs twice at a time. It
    cannot be stopped, so it is trusted to return. Used from one event loop at a time.
    """

    def __init__(self, generate: Callable[[list[Chat]], Sequence[str]]) -> None:
        """Wrap a function: conversations in OpenAI's chat format in, one text each out, in their order."""
        self._generate = generate
        # A batch that an event loop left behind runs on in its thread; the next loop waits for it.
        self._busy = threading.Lock()
        self._waiting: list[tuple[Chat, asyncio.Future[Reply]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, messages: Sequence[Message]) -> Reply:
        """Answer with the next batch; `elapsed_s` is that of the batch. Raises JudgeError if `generate` fails."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((chat_format(messages), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(0)  # Whoever asks in the same turn of the loop comes along in the first batch.
        while self._waiting:
            batch = [(chat, future) for chat, future in self._waiting if not future.done()]
            self._waiting = []
            if not batch:
                break
            started = time.perf_counter()
            try:
                texts = await asyncio.to_thread(self._run, [chat for chat, _ in batch])
                if isinstance(texts, str) or not isinstance(texts, Sequence):
                    raise TypeError(f"{len(batch)} chats gave a {type(texts).__name__}, no list of texts")
                if len(texts) != len(batch):
                    raise ValueError(f"{len(batch)} chats gave {len(texts)} texts")
            except Exception as error:  # noqa: BLE001 - a model may raise anything; everybody who waits is told
                failure = JudgeError(f"the judge in this process failed: {describe(error)}")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(failure)
                continue
            elapsed_s = time.perf_counter() - started
            for (_, future), text in zip(batch, texts, strict=True):
                if not future.done():
                    future.set_result(Reply(text, elapsed_s))

    def _run(self, chats: list[Chat]) -> Sequence[str]:
        with self._busy:
            return self._generate(chats)


def vllm_judge(llm: Any, **sampling: Any) -> BatchJudge:
    """A `vllm.LLM` of this process as a judge.

    Args:
        llm: the engine; its model has a chat template.
        sampling: arguments of vLLM's `SamplingParams`; temperature 0 and at most 1,024 tokens where not given.
    """
    # Taken from the object, so that rewards need no import of vllm.
    params = type(llm.get_default_sampling_params())(**{"temperature": 0.0, "max_tokens": 1024, **sampling})

    def generate(chats: list[Chat]) -> list[str]:
        return [output.outputs[0].text for output in llm.chat(chats, params, use_tqdm=False)]

    return BatchJudge(generate)
