"""vLLM as the sampling engine, inside the trainer's process: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evolpo import InputError
from evolpo.rl.data import FinishReason, Group, Prompt, Response
from evolpo.rollout.card import CPU_CACHE_GB, GIB, EngineStream, Share, engine_share
from evolpo.rollout.ends import end_tokens, response_text
from evolpo.rollout.engine import (
    ADAPTER_RANKS,
    InFlight,
    Interrupted,
    RolloutConfig,
    Sampling,
    check_tokens,
    prompt_seeds,
)
from evolpo.rollout.ranks import EngineRanks
from evolpo.rollout.vllm_worker import (
    ADAPTER,
    completed,
    expert_routers,
    register_ling,
    repack_experts,
    repack_tied_head,
    take_adapter,
)

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
"""vLLM's names of the precisions."""
CPU_BATCH = 4096
"""Tokens that vLLM computes at once on a CPU, at most; a longer prompt raises it."""
GRAPHS = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
"""Graphs of the steps in which every sequence gets one token, and no compiler to wait for."""
ASKED_EVERY = 8
"""Steps of an engine that ranks share between two questions whether one of them has been asked to end."""


def set_environment(threads: int) -> None:
    """Settings that vLLM reads when it is first imported; what the user set already stays."""
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process, beside the trainer
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(threads),  # without it vLLM cuts torch to one thread
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def _rank_in_environment() -> Iterator[None]:
    """The rank of a trainer beside the engine where vLLM looks for it; what is started later must not inherit it."""
    beside = torch.distributed.is_initialized()
    own = {"RANK": str(torch.distributed.get_rank()), "LOCAL_RANK": "0"} if beside else {}
    added = {name: value for name, value in own.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def hide_llvmlite() -> None:
    """Let vLLM's CPU build start beside numba, which whoever draws or computes intervals may have imported.

    vLLM reads the `__dict__` of all that loaded modules hold; llvmlite's handle of its library takes that for the name
    of a C function and answers with one, which is no dictionary.
    """
    if ffi := sys.modules.get("llvmlite.binding.ffi"):
        ffi.lib._fntab.setdefault("__dict__", {})


def leave_ranks() -> None:
    """Let the ranks of this process outlive an engine, for the trainer beside it and for the next engine.

    vLLM ends all groups of the process, the trainer's among them, whenever Python collects an engine.
    """
    from vllm.v1.engine import core

    def collect() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    core.cleanup_dist_env_and_memory = collect


def talk_by_gloo() -> None:
    """Let the ranks of an engine on CPUs add up by gloo.

    vLLM's own way there goes through a piece of memory whose name is the same for all runs of a machine whose ranks a
    launcher started, and stays when a run is killed. Nor do more than two ranks get the same bits by it: each begins
    the sum with its own part. They would sample different tokens.
    """
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False
    warnings.filterwarnings("ignore", ".*all_gather_into_tensor", FutureWarning)  # PyTorch's, to vLLM


def engine_ranks(size: int) -> EngineRanks:
    """The ranks that share the engine of this process, once vLLM has started."""
    if size == 1:
        return EngineRanks()
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    group.mq_broadcaster = None  # a piece of shared memory that nobody here sends by, and nobody would take down
    return EngineRanks(size, group.rank_in_group, group.cpu_group)


def sampling_params(
    sampling: Sampling, seed: int | None, ends: Sequence[int], *, responses: int = 1, max_tokens: int = 0
) -> Any:
    """vLLM's parameters for one prompt.

    Args:
        sampling: how.
        seed: of the first response; None: greedy.
        ends: tokens that end a response.
        responses: how many.
        max_tokens: budget of what is left of a response, which is handed over token by token; 0: whole responses are.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=responses,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=max_tokens or sampling.max_response_tokens,
        seed=seed,
        logprobs=0,
        detokenize=False,
        stop_token_ids=list(ends),
        output_kind=RequestOutputKind.DELTA if max_tokens else RequestOutputKind.FINAL_ONLY,
    )


def sampled_logprobs(completion: Any) -> tuple[float, ...]:
    """Log-probabilities of the tokens that vLLM hands over."""
    pairs = zip(completion.token_ids, completion.logprobs or (), strict=True)
    return tuple(position[token].logprob for token, position in pairs)


def finish_reason(completion: Any) -> FinishReason:
    """Why a finished response ended."""
    return "length" if completion.finish_reason == "length" else "stop"


class VllmEngine:
    """A `RolloutEngine` that runs vLLM in this process, one engine a rank or one for several of them."""

    def __init__(
        self,
        model: str | Path,
        config: RolloutConfig,
        precision: str,
        max_model_tokens: int,
        seed: int = 0,
        *,
        weight_bytes: int = 0,
        promised_bytes: int = 0,
        adapter_rank: int = 0,
        in_flight: InFlight | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: folder in Hugging Face layout, or hub name.
            config: memory and compilation.
            precision: "bf16" or "fp32".
            max_model_tokens: longest prompt plus response.
            seed: of sampling without a seed of its own.
            weight_bytes: of the whole model, to share out a GPU's memory.
            promised_bytes: what a trainer on the same GPU will hold beside what it holds now.
            adapter_rank: of the adapter that `update_adapter` will bring; 0: none, all weights come.
            in_flight: what becomes of requests that run while weights change; None: none will.
        """
        set_environment(torch.get_num_threads())
        hide_llvmlite()
        leave_ranks()
        from vllm import LLM

        register_ling()
        beside_trainer = torch.distributed.is_initialized()
        extra: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if beside_trainer else {}
        extra["tensor_parallel_size"] = config.tensor_parallel
        if torch.cuda.is_available():
            extra["enable_sleep_mode"] = True
            if not config.compile:
                extra["compilation_config"] = GRAPHS
            share = _share_of_card(config, weight_bytes, promised_bytes)
            extra["gpu_memory_utilization"] = share.utilization
        else:
            talk_by_gloo()
            share = Share(int((config.kv_cache_gb or CPU_CACHE_GB) * GIB), 0.0)
            extra["enforce_eager"] = not config.compile
            extra["block_size"] = 32  # the CPU's own choice, 128, caches no prefix of a short prompt
            # Latent attention as every CPU has it: what vLLM takes where there is AMX knows bf16 alone.
            extra["attention_config"] = {"backend": "CPU_MLA"}
            # With prompts cut into chunks vLLM winds generators back, which generators on a CPU cannot do.
            extra |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_tokens, CPU_BATCH)}
        if adapter_rank:
            largest = next(rank for rank in ADAPTER_RANKS if rank >= adapter_rank)
            extra |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": largest}
        if in_flight is not None:
            extra["async_scheduling"] = (
                False  # a step hands over the tokens that it sampled, and none of the one before
            )
        self.stream = EngineStream()
        with _rank_in_environment(), self.stream.entered(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")  # of its own code, to itself
            self.llm = LLM(
                model=str(model),
                dtype=DTYPES[precision],
                seed=seed,
                max_model_len=max_model_tokens,
                kv_cache_memory_bytes=share.cache_bytes,
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                logprobs_mode="processed_logprobs",  # of the distribution that is sampled: after the temperature
                hf_overrides=completed,
                **extra,
            )
        self.ranks = engine_ranks(config.tensor_parallel)
        self.asked: Callable[[], bool] = lambda: False
        self.takes_adapters = bool(adapter_rank)
        # The model beside an adapter does not come again: asleep, the engine keeps it in the CPU's memory.
        self.sleep_level, self.asleep = 1 if adapter_rank else config.sleep_level, False
        self.tokenizer: Any = self.llm.get_tokenizer()
        self.special_tokens = config.special_tokens
        model_config = self.llm.llm_engine.model_config
        self.vocabulary = int(model_config.get_vocab_size())
        generation = model_config.try_get_generation_config()
        self.ends = end_tokens(
            self.tokenizer, (generation.get("eos_token_id"), getattr(model_config.hf_config, "eos_token_id", None))
        )
        self.version, self._has_adapter = 0, False
        self.in_flight = in_flight

    @property
    def seats(self) -> int:
        """Responses that are sampled at once."""
        return int(self.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, done: Callable[[Group], None] | None = None
    ) -> list[Group]:
        """Sample a group for each prompt.

        Where ranks share the engine it samples from the prompts of all of them at once, those of each with its seed.

        Raises:
            InputError: a prompt holds a token that the tokenizer has and the model has not.
            Interrupted: ranks share the engine, and one of them has been asked to end.
        """
        shares = self.ranks.gather((list(prompts), seed))
        everyone = [prompt for own, _ in shares for prompt in own]
        check_tokens(everyone, self.vocabulary, self.tokenizer)
        seeds = [one for own, seed in shares for one in prompt_seeds(seed, sampling, len(own))]
        params = [sampling_params(sampling, one, self.ends, responses=sampling.responses_per_prompt) for one in seeds]
        first = sum(len(own) for own, _ in shares[: self.ranks.rank])
        own = range(first, first + len(prompts))
        with self.stream.entered():
            groups = self._sampled(everyone, params, own, done)
        return [groups[place] for place in own]

    def _sampled(
        self, prompts: Sequence[Prompt], params: Sequence[Any], own: range, done: Callable[[Group], None] | None
    ) -> dict[int, Group]:
        """The groups of this rank's prompts, which stand at the places `own` among those of all ranks."""
        # Prefixes left from earlier calls would change how prompts are cut into chunks, and with it the last bits.
        self._forget_prefixes()
        engine = self.llm.llm_engine
        for place, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
            self.add_request(str(place), prompt.token_ids, param)
        groups: dict[int, Group] = {}
        steps = told = 0
        while engine.has_unfinished_requests():
            if self.ranks.size > 1 and steps % ASKED_EVERY == 0 and self.ranks.any(self.asked()):
                raise Interrupted
            steps += 1
            for output in engine.step():
                place = int(output.request_id)
                told += sum(hash((place, *completion.token_ids)) for completion in output.outputs)
                if place not in own:
                    continue
                responses = tuple(self._response(completion) for completion in output.outputs)
                groups[place] = Group(prompts[place], responses)
                if done is not None:
                    done(groups[place])
        if len(set(self.ranks.gather(told))) > 1:
            raise RuntimeError("the ranks of an engine have sampled different tokens; set rollout.tensor_parallel=1")
        return groups

    def add_request(self, name: str, token_ids: Sequence[int], params: Any) -> None:
        """Give vLLM something to do at its next steps; prefixes of another version of the weights are not used."""
        from vllm import TokensPrompt
        from vllm.lora.request import LoRARequest

        adapter = LoRARequest("evolpo", ADAPTER, lora_path="in memory") if self._has_adapter else None
        tokens = TokensPrompt(prompt_token_ids=list(token_ids), cache_salt=str(self.version))
        self.llm.llm_engine.add_request(name, tokens, params, lora_request=adapter)

    def _forget_prefixes(self) -> None:
        running = self.in_flight is not None and self.llm.llm_engine.has_unfinished_requests()
        if running and self.in_flight == "keep":
            return  # new requests have another salt
        if not self.llm.reset_prefix_cache(reset_running_requests=running):
            raise RuntimeError("vLLM keeps prefixes that old weights have computed: its cache is in use")

    def _response(self, completion: Any) -> Response:
        token_ids = tuple(completion.token_ids)
        text = response_text(token_ids, self.ends, self.tokenizer, self.special_tokens)
        return Response(token_ids, text, sampled_logprobs(completion), finish_reason(completion))

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Reload weights in place from live tensors, in one call; their memory is back before that of the cache."""
        with self.stream.entered():
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
            self.llm.apply_model(repack_tied_head)
            self.llm.apply_model(repack_experts)
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
            self._forget_prefixes()
        self.version, self.asleep, self._has_adapter = version, False, False

    def update_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], version: int) -> None:
        """Replace the adapter from live tensors; what is asked for from now on is sampled with it.

        Raises:
            InputError: it stands beside layers that vLLM's model does not have.
        """
        with self.stream.entered():
            if self.asleep:
                self.llm.wake_up(tags=["weights", "kv_cache"])
            [unknown] = self.llm.collective_rpc(take_adapter, args=(tensors, settings))
            self._forget_prefixes()
        if unknown:
            raise InputError(
                f"rollout.lora_sync: vLLM's model has no layer for the adapter of {unknown[0]}; give folded"
            )
        self.version, self.asleep, self._has_adapter = version, False, True

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """The experts that the engine's model chooses for each token, one sequence after the other."""
        [routers] = self.llm.apply_model(expert_routers)
        if not routers:
            return []
        shares = self.ranks.gather(list(sequences))
        with self.stream.entered():
            routes = [[self._routing(sequence, routers) for sequence in share] for share in shares]
        return routes[self.ranks.rank]

    def _routing(self, sequence: Sequence[int], routers: Sequence[Any]) -> Tensor:
        from vllm import SamplingParams, TokensPrompt

        chosen: list[list[Tensor]] = [[] for _ in routers]
        for router, seen in zip(routers, chosen, strict=True):
            router.set_capture_fn(lambda experts, seen=seen: seen.append(experts.cpu().clone()))
        try:
            self._forget_prefixes()  # a prefix in the cache would not be computed, nor routed
            once = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
            self.llm.generate([TokensPrompt(prompt_token_ids=list(sequence))], once, use_tqdm=False)
        finally:
            for router in routers:
                router.set_capture_fn(None)
        return torch.stack([torch.cat(seen)[: len(sequence)] for seen in chosen], dim=1)  # [T, layers, k]

    def sleep(self) -> bool:
        """Free key-value cache and weights on a GPU; nothing to free on a CPU."""
        if torch.cuda.is_available():
            with self.stream.entered():
                self.llm.sleep(level=self.sleep_level)
            self.asleep = True
        return self.asleep


def _share_of_card(config: RolloutConfig, weight_bytes: int, promised_bytes: int) -> Share:
    """The engine's share of this rank's GPU; what PyTorch holds and does not use is given back before."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return engine_share(free, total, weight_bytes // config.tensor_parallel, config.kv_cache_gb, promised_bytes)
