"""A judge behind an OpenAI-compatible address: OpenAI, vLLM serve, SGLang, llama.cpp and many others."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from evolpo import InputError
from evolpo.rewards.judges.judge import JudgeError, JudgeTimeoutError, Message, Reply, chat_format

MAX_BYTES = 1 << 24
"""Of one answer; a server that sends without end would fill the memory long before its deadline."""
DEFAULT_SAMPLING: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 1024}


class OpenAIJudge:
    """Asks a server for chat completions.

    Refused and broken connections, timeouts, 408, 409, 429 and 5xx are tried again by the client of the `openai`
    package, after half a second, then a second and so on up to eight, or as long as the server asks for.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "",
        sampling: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        concurrency: int = 32,
    ) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            base_url: its address up to and including the version, e.g. `http://127.0.0.1:8000/v1`.
            model: name of the model there.
            api_key_env: name of the environment variable that holds the key; empty if the server wants none.
            sampling: sent with every request in place of the default, temperature 0 and at most 1,024 tokens.
            timeout_s: seconds one attempt may take; all attempts with the pauses between them end after
                `retries + 1` times as many.
            retries: how many more times a failed request is tried.
            concurrency: requests at the same time; the clock of the others has not started.

        Raises:
            InputError: an argument that makes no sense; `openai` is not installed.
        """
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"base_url: {base_url!r} is no address; give http://HOST:PORT/v1 or https://...")
        if not model:
            raise InputError("model: is empty; give the name of a model of the server")
        if api_key_env and api_key_env not in os.environ:
            raise InputError(f"api_key_env: the environment variable {api_key_env} is not set; export the key there")
        if not timeout_s > 0:
            raise InputError(f"timeout_s: {timeout_s} is no deadline; give seconds above 0")
        if retries < 0:
            raise InputError(f"retries: {retries} is negative; give 0 or more")
        if concurrency < 1:
            raise InputError(f"concurrency: {concurrency} lets nothing through; give 1 or more")
        try:
            import openai  # Slow to import, so not in the middle of the first step.
        except ModuleNotFoundError as error:
            raise InputError("base_url: the package openai is not installed; pip install openai") from error
        self._openai = openai
        self.base_url, self.model = base_url, model
        self._api_key = os.environ[api_key_env] if api_key_env else "none"
        self._sampling = dict(DEFAULT_SAMPLING if sampling is None else sampling)
        self._timeout_s, self._retries, self._concurrency = timeout_s, retries, concurrency
        # A client's connections and a semaphore's waiters belong to the event loop that they were made in.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, asyncio.Semaphore]]
        self._clients = weakref.WeakKeyDictionary()

    async def ask(self, messages: Sequence[Message]) -> Reply:
        """The first choice of a chat completion; a refusal, a tool call or an answer without text is an empty text.

        Raises:
            JudgeTimeoutError: no answer in time.
            JudgeError: the server cannot be reached, answers with an error or with something else than a completion.
        """
        client, slots = self._client()
        async with slots:
            started = time.perf_counter()
            try:
                # The client's own timeout restarts with every byte, so a server that drips would never meet it.
                async with asyncio.timeout(self._timeout_s * (self._retries + 1)):
                    completion = await client.chat.completions.create(
                        model=self.model, messages=chat_format(messages), **self._sampling
                    )
            except (TimeoutError, self._openai.APITimeoutError) as error:
                attempts = f"{self._retries + 1} attempts of {self._timeout_s:g} s"
                raise JudgeTimeoutError(f"the judge at {self.base_url} did not answer in {attempts}") from error
            except (self._openai.OpenAIError, ValueError) as error:
                raise JudgeError(f"the judge at {self.base_url} failed: {_reason(error)}") from error
            elapsed_s = time.perf_counter() - started
        return _reply(completion, elapsed_s, self.base_url)

    def _client(self) -> tuple[Any, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            client = self._openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._api_key,
                timeout=self._timeout_s,
                max_retries=self._retries,
                default_headers={"Accept-Encoding": "identity"},  # A few kilobytes may else become gigabytes.
                http_client=self._openai.DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}),
            )
            self._clients[loop] = client, asyncio.Semaphore(self._concurrency)
        return self._clients[loop]


async def _bound(response: Any) -> None:
    """Let no more than `MAX_BYTES` of an answer be read. Raises RemoteProtocolError for a compressed one."""
    # Of the library that the client uses: httpx, or httpx2 in newer versions.
    http: Any = importlib.import_module(type(response).__module__.partition(".")[0])

    class Bounded(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            read = 0
            async for chunk in self._stream:
                read += len(chunk)
                if read > MAX_BYTES:
                    raise http.RemoteProtocolError(f"more than {MAX_BYTES >> 20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise http.RemoteProtocolError("a compressed answer, which was not asked for")
    response.stream = Bounded(response.stream)


def _reason(error: BaseException) -> str:
    """One line; a refused connection is the cause of what the client raises."""
    cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {error}{cause}".replace("\n", " ")[:500]


def _reply(completion: Any, elapsed_s: float, base_url: str) -> Reply:
    # The client does not check what a server sends: a body that is no JSON comes back as a string.
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise JudgeError(f"the judge at {base_url} sent no chat completion: {str(completion)[:200]!r}")
    usage = getattr(completion, "usage", None)
    return Reply(
        text=_text(getattr(message, "content", None)),
        elapsed_s=elapsed_s,
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
        finished=getattr(choice, "finish_reason", None) != "length",
    )


def _text(content: Any) -> str:
    """The text of a message: a string, or parts of which some are text; empty if it is anything else."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _count(tokens: Any) -> int:
    return tokens if type(tokens) is int and tokens >= 0 else 0
