"""The engine on a GPU that it shares with a trainer: memory against vLLM's own demand, streams, order of calls."""

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.worker.utils import request_memory

from evolpo import InputError
from evolpo.rollout import card
from evolpo.rollout.card import BESIDE, GIB, EngineStream, engine_share
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.vllm_engine import GRAPHS, VllmEngine

H100 = int(79.1 * GIB)


def snapshot(free: int, total: int) -> SimpleNamespace:
    return SimpleNamespace(free_memory=free, total_memory=total, device_="cuda:0")


# What is free beside a trainer: 135 M, 1.5 B, 7 B under ZeRO-1 on 8 cards, 7 B alone with its states away.
@pytest.mark.parametrize(
    ("free_gib", "weights_gib", "promised_gib"), [(77, 0.3, 1.1), (69, 2.9, 11.5), (52, 14.2, 7.1), (64, 14.2, 0)]
)
@pytest.mark.parametrize("cache_gb", [0.0, 8.0])
def test_vllm_finds_what_is_asked_for(
    free_gib: float, weights_gib: float, promised_gib: float, cache_gb: float
) -> None:
    free, weights, promised = (int(x * GIB) for x in (free_gib, weights_gib, promised_gib))
    share = engine_share(free, H100, weights, cache_gb, promised)
    asked = request_memory(snapshot(free, H100), SimpleNamespace(gpu_memory_utilization=share.utilization))
    assert asked <= free - promised
    assert asked >= weights + share.cache_bytes
    if cache_gb:
        assert share.cache_bytes == 8 * GIB
    else:
        assert weights + share.cache_bytes + BESIDE + promised == pytest.approx(0.98 * free, rel=1e-6)


def test_vllm_refuses_its_own_default_beside_a_trainer() -> None:
    """What the engine did before: this is what the share is for."""
    with pytest.raises(ValueError, match="less than desired"):
        request_memory(snapshot(69 * GIB, H100), SimpleNamespace(gpu_memory_utilization=0.92))


@pytest.mark.parametrize(("free_gib", "cache_gb"), [(20, 0.0), (60, 60.0)])
def test_what_does_not_fit_is_said_with_what_helps(free_gib: int, cache_gb: float) -> None:
    with pytest.raises(InputError, match=r"rollout.kv_cache_gb.*trainer.offload=rollout"):
        engine_share(free_gib * GIB, H100, 14 * GIB, cache_gb, 7 * GIB)


class Stream:
    """A stream that knows which other ones it has waited for."""

    def __init__(self, name: str) -> None:
        self.name, self.waited = name, []

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other.name)


class Recorder:
    """Stands for vLLM and for the GPU: keeps keywords and calls in their order, and changes the stream like vLLM."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list = []
        self.keywords: dict = {}
        self.resets = True
        self.current = self.default = Stream("default")
        self.own = Stream("vllm")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda: (60 * GIB, H100))
        patch.setattr(torch.cuda, "current_stream", lambda: self.current)
        patch.setattr(torch.cuda, "set_stream", self.set_stream)
        patch.setattr("vllm.LLM", self.llm)
        patch.setattr("evolpo.rollout.vllm_engine.register_ling", lambda: None)
        patch.setattr(torch.distributed, "is_initialized", lambda: False)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    def llm(self, **keywords: object) -> "Recorder":
        self.keywords = keywords
        self.current = self.own
        config = SimpleNamespace(
            get_vocab_size=lambda: 10, try_get_generation_config=dict, hf_config=SimpleNamespace(eos_token_id=1)
        )
        self.llm_engine = SimpleNamespace(model_config=config)
        return self

    def get_tokenizer(self) -> SimpleNamespace:
        return SimpleNamespace(eos_token_id=1)

    def _call(self, *what: object) -> None:
        self.calls.append(what)
        assert self.current is self.own, "outside of vLLM's stream"

    def collective_rpc(self, method: object, kwargs: dict | None = None, args: tuple = ()) -> list:
        if callable(method):
            self._call(method.__name__, sorted(args[0]))
        else:
            self._call(method, [name for name, _ in kwargs["weights_iterator"]])
        return [[]]

    def apply_model(self, function: object) -> None:
        self._call("apply")

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        self._call("reset")
        return self.resets

    def sleep(self, level: int) -> None:
        self._call("sleep", level)

    def wake_up(self, tags: list[str]) -> None:
        self._call("wake", *tags)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr("evolpo.rollout.vllm_engine.end_tokens", lambda *_: [1])
    return Recorder(monkeypatch)


def test_a_gpu_gets_graphs_sleep_and_all_the_memory_that_is_left(fake: Recorder) -> None:
    VllmEngine("m", RolloutConfig(), "bf16", 256, weight_bytes=3 * GIB, promised_bytes=10 * GIB)
    share = engine_share(60 * GIB, H100, 3 * GIB, 0.0, 10 * GIB)
    assert fake.keywords["compilation_config"] == GRAPHS
    assert "enforce_eager" not in fake.keywords
    assert fake.keywords["enable_sleep_mode"]
    assert fake.keywords["kv_cache_memory_bytes"] == share.cache_bytes > 40 * GIB
    assert fake.keywords["gpu_memory_utilization"] == share.utilization
    from vllm.config import CompilationConfig

    assert str(CompilationConfig(**GRAPHS).cudagraph_mode.name) == "FULL_DECODE_ONLY"


def test_a_rank_of_an_engine_that_several_share_asks_for_its_part(
    fake: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which ranks belong together is vLLM's rule: neighbours. Its group is asked for after the start."""
    group = SimpleNamespace(rank_in_group=1, cpu_group=object())
    monkeypatch.setattr("vllm.distributed.parallel_state.get_tp_group", lambda: group)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    config = RolloutConfig(tensor_parallel=2)
    engine = VllmEngine("m", config, "bf16", 256, weight_bytes=30 * GIB, promised_bytes=10 * GIB)
    share = engine_share(60 * GIB, H100, 15 * GIB, 0.0, 10 * GIB)
    assert fake.keywords["distributed_executor_backend"] == "external_launcher"
    assert fake.keywords["tensor_parallel_size"] == 2
    assert fake.keywords["kv_cache_memory_bytes"] == share.cache_bytes
    assert fake.keywords["gpu_memory_utilization"] == share.utilization
    assert (engine.ranks.size, engine.ranks.rank) == (2, 1)
    asked = request_memory(snapshot(60 * GIB, H100), SimpleNamespace(gpu_memory_utilization=share.utilization))
    assert 15 * GIB + share.cache_bytes <= asked <= 50 * GIB


def test_weights_wake_before_the_update_and_the_cache_after_it(fake: Recorder) -> None:
    engine = VllmEngine("m", RolloutConfig(), "bf16", 256)
    assert engine.sleep()
    engine.update_weights([("a", torch.zeros(1))], version=3)
    assert fake.calls == [
        ("sleep", 2), ("wake", "weights"), ("reload_weights", ["a"]), ("apply",), ("apply",), ("wake", "kv_cache"),
        ("reset",),
    ]  # fmt: skip
    fake.calls.clear()
    engine.update_weights([("a", torch.zeros(1))], version=4)  # awake: nothing to wake
    assert [call[0] for call in fake.calls] == ["reload_weights", "apply", "apply", "reset"]
    assert VllmEngine("m", RolloutConfig(sleep_level=1), "bf16", 256).sleep()
    assert fake.calls[-1] == ("sleep", 1)


@pytest.mark.parametrize("level", [1, 2])
def test_the_model_beside_adapters_sleeps_in_the_memory_of_the_cpu(fake: Recorder, level: int) -> None:
    """At level 2 it would be gone: adapters come alone, and what was dropped comes back as it lay in memory."""
    engine = VllmEngine("m", RolloutConfig(sleep_level=level), "bf16", 256, adapter_rank=3)
    assert engine.sleep()
    engine.update_adapter({"b": torch.zeros(1), "a": torch.zeros(1)}, {"r": 3}, version=1)
    assert fake.calls == [("sleep", 1), ("wake", "weights", "kv_cache"), ("take_adapter", ["a", "b"]), ("reset",)]
    fake.calls.clear()
    engine.update_weights([("a", torch.zeros(1))], version=2)
    assert engine.sleep()
    assert fake.calls[-1] == ("sleep", 1)  # the next to come may be adapters


def test_prefixes_that_stay_stop_the_run(fake: Recorder) -> None:
    engine = VllmEngine("m", RolloutConfig(), "bf16", 256)
    fake.resets = False
    with pytest.raises(RuntimeError, match="its cache is in use"):
        engine.update_weights([], version=1)


def test_the_trainer_gets_its_stream_back_in_order(fake: Recorder) -> None:
    engine = VllmEngine("m", RolloutConfig(), "bf16", 256)
    assert fake.current is fake.default
    assert fake.default.waited == ["vllm"]
    engine.sleep()
    assert fake.current is fake.default
    assert fake.own.waited == ["default"]
    assert fake.default.waited == ["vllm", "vllm"]
    with pytest.raises(ZeroDivisionError), engine.stream.entered():
        raise ZeroDivisionError
    assert fake.current is fake.default


def test_without_a_gpu_there_is_nothing_to_order() -> None:
    with EngineStream().entered():
        pass
    assert card.BESIDE == 4 * GIB


def test_the_engine_is_warned_where_the_trainer_is_refused(fake: Recorder) -> None:
    modes: list[int] = []
    fake.apply_model = lambda function: modes.append(torch.get_deterministic_debug_mode())  # type: ignore[method-assign]
    engine = VllmEngine("m", RolloutConfig(), "bf16", 256)
    try:
        for mode in (0, 1, 2):
            torch.set_deterministic_debug_mode(mode)
            engine.update_weights([], version=1)
            assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(0)
    assert modes == [0, 0, 1, 1, 1, 1]
