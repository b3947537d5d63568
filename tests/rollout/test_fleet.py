"""A fleet for real: two engines in processes of their own, weights that change meanwhile, and what kills engines."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psutil
import pytest
import torch

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.rl.data import Group, Prompt, Span
from evolpo.rollout.engine import FleetConfig, RolloutConfig, Sampling, prompt_seeds
from evolpo.rollout.engine_actor import EngineSettings
from evolpo.rollout.fleet import Fleet, Place
from evolpo.rollout.vllm_engine import VllmEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROMPTS = [Prompt(str(i), "", tuple(range(5 + i, 45 + i))) for i in range(6)]
LONG = Sampling(responses_per_prompt=4, max_response_tokens=200, temperature=0.7)
SHORT = replace(LONG, max_response_tokens=12)
STALL_S = 10.0
"""Silence after which an engine is given up; a busy machine makes steps of a second."""


class Policies:
    """The versions of the policy that were published, as plain models."""

    def __init__(self, path: str) -> None:
        self.model = load_model(path, torch.float32)
        self.start = {name: one.detach().clone() for name, one in self.model.named_parameters()}

    def weights(self, version: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(version)
        noise = 0.03 * (version > 0)
        return {n: one + noise * torch.randn(one.shape, generator=generator) for n, one in self.start.items()}

    def logprobs(self, version: int, group: Group, place: int) -> torch.Tensor:
        """Of the tokens of a response, from the model's own full logits."""
        self.model.load_state_dict(self.weights(version), strict=False)
        ids = torch.tensor([group.prompt.token_ids + group.responses[place].token_ids])
        start = len(group.prompt.token_ids)
        with torch.no_grad():
            table = (self.model(input_ids=ids).logits[0, start - 1 : -1].float() / LONG.temperature).log_softmax(-1)
        return table.gather(1, ids[0, start:, None]).squeeze(1)

    def worst_gap(self, groups: Sequence[Group]) -> float:
        """Between recorded log-probabilities and those of the version that each token says it is of."""
        gaps = [0.0]
        for group in groups:
            for place, response in enumerate(group.responses):
                versions = [span.version for span in response.spans for _ in range(span.tokens)]
                assert len(versions) == len(response.token_ids) == len(response.logprobs)
                assert versions == sorted(versions)
                by_version = {version: self.logprobs(version, group, place) for version in set(versions)}
                theirs = [float(by_version[version][i]) for i, version in enumerate(versions)]
                gaps += [abs(a - b) for a, b in zip(response.logprobs, theirs, strict=True)]
        return max(gaps)


@pytest.fixture(scope="module")
def policies(served_model_path: str) -> Policies:
    return Policies(served_model_path)


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def shared(served_model_path: str, notes: list[str]) -> Iterator[Fleet]:
    config = RolloutConfig(kv_cache_gb=0.25, fleet=FleetConfig(engines=2, stall_s=STALL_S))
    settings = EngineSettings(served_model_path, config, "fp32", 256, 0, 1 << 20, 0)
    fleet = Fleet(settings, config.fleet, load_tokenizer(served_model_path), 1, 0.0, notes.append)
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(shared: Fleet, policies: Policies) -> Fleet:
    """Both engines there, with the weights of the start."""
    until(lambda: all(place.live for place in shared.places))
    shared.update_weights(policies.weights(0).items(), 0)
    return shared


def until(true: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Asked:
    """Groups that were asked for, and those that came back."""

    def __init__(
        self, fleet: Fleet, sampling: Sampling = LONG, seed: int = 1, prompts: Sequence[Prompt] = PROMPTS
    ) -> None:
        self.fleet, self.prompts = fleet, prompts
        self._came: queue.SimpleQueue[tuple[int, Group]] = queue.SimpleQueue()
        seeds = prompt_seeds(seed, sampling, len(prompts))
        self.numbers = fleet.submit(prompts, sampling, seeds, lambda number, group: self._came.put((number, group)))

    def all(self) -> list[Group]:
        """Each exactly once, in the order in which they were asked for."""
        groups: dict[int, Group] = {}
        for _ in self.numbers:
            number, group = self._came.get(timeout=300)
            assert number not in groups
            groups[number] = group
        time.sleep(0.5)
        assert self._came.empty(), "a group came twice"
        assert sorted(groups) == self.numbers
        return [groups[number] for number in self.numbers]

    def under_way(self, tokens: int = 40) -> None:
        """Wait until that many tokens are in the journal."""
        journal = self.fleet._journal
        until(lambda: sum(len(e.token_ids) for g in list(journal._groups.values()) for e in g.entries) >= tokens)


def pid(place: Place) -> int:
    assert place.described is not None
    return place.described.pid


def test_a_fleet_samples_what_one_engine_in_this_process_samples(fleet: Fleet, served_model_path: str) -> None:
    seen: list[Group] = []
    groups = fleet.generate(PROMPTS, SHORT, seed=3, done=seen.append)
    assert sorted(seen, key=lambda group: group.prompt.id) == groups
    assert {span for group in groups for one in group.responses for span in one.spans} <= {
        Span(0, n) for n in range(13)
    }
    alone = VllmEngine(served_model_path, RolloutConfig(kv_cache_gb=0.25), "fp32", 256).generate(PROMPTS, SHORT, seed=3)
    plain = [replace(g, responses=tuple(replace(r, spans=()) for r in g.responses)) for g in groups]
    assert plain == alone


def test_both_engines_work(fleet: Fleet) -> None:
    asked = Asked(fleet)
    assert {fleet._journal.load(place.key) for place in fleet.places} == {12}
    asked.all()


def test_weights_change_while_responses_are_sampled(fleet: Fleet, policies: Policies) -> None:
    asked = Asked(fleet)
    for version in (1, 2):
        asked.under_way(300 * version)
        fleet.update_weights(policies.weights(version).items(), version)
    groups = asked.all()
    assert {span.version for group in groups for one in group.responses for span in one.spans} == {0, 1, 2}
    assert policies.worst_gap(groups) < 1e-3
    assert policies.worst_gap(fleet.generate(PROMPTS[:1], SHORT, seed=1)) < 1e-3


def test_kill_9_while_sampling(fleet: Fleet, policies: Policies, notes: list[str]) -> None:
    before = replace(fleet.counts)
    asked = Asked(fleet)
    asked.under_way(300)
    os.kill(pid(fleet.places[0]), signal.SIGKILL)
    groups = asked.all()
    assert fleet.counts.deaths == before.deaths + 1
    assert fleet.counts.resumed == before.resumed + 12
    assert fleet.counts.kept_tokens > before.kept_tokens
    assert fleet.counts.noticed_s[-1] < STALL_S
    assert policies.worst_gap(groups) < 1e-3
    assert "responses go on elsewhere" in notes[-1] or "another engine" in notes[-1]


def test_all_engines_killed_at_once_and_a_new_version_before_they_are_back(fleet: Fleet, policies: Policies) -> None:
    asked = Asked(fleet)
    asked.under_way(300)
    fleet.update_weights(policies.weights(1).items(), 1)
    for place in fleet.places:
        os.kill(pid(place), signal.SIGKILL)
    until(lambda: not any(place.live for place in fleet.places))
    fleet.update_weights(policies.weights(2).items(), 2)
    groups = asked.all()
    versions = {span.version for group in groups for one in group.responses for span in one.spans}
    assert {0, 2} <= versions <= {0, 1, 2}
    assert policies.worst_gap(groups) < 1e-3


def test_kill_9_while_weights_are_loaded(fleet: Fleet, policies: Policies) -> None:
    asked = Asked(fleet)
    asked.under_way(100)
    victim = pid(fleet.places[1])
    publishing = threading.Thread(target=fleet.update_weights, args=(policies.weights(1).items(), 1))
    publishing.start()
    os.kill(victim, signal.SIGKILL)
    publishing.join(timeout=120)
    assert not publishing.is_alive()
    assert policies.worst_gap(asked.all()) < 1e-3


def test_an_engine_that_hangs_is_given_up_and_its_late_answers_are_not_heard(fleet: Fleet, policies: Policies) -> None:
    asked = Asked(fleet)
    asked.under_way(100)
    stopped = psutil.Process(pid(fleet.places[0]))
    key = fleet.places[0].key
    stopped.suspend()
    until(lambda: fleet.places[0].key != key or not fleet.places[0].live)
    assert STALL_S * 0.9 < fleet.counts.noticed_s[-1] < 3 * STALL_S
    until(lambda: not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE)  # no process is left behind
    assert policies.worst_gap(asked.all()) < 1e-3


def test_reports_of_an_engine_that_was_given_up_are_dropped(fleet: Fleet) -> None:
    """As if the process woke after its work had been given away, with an answer on its way."""
    asked = Asked(fleet)
    asked.under_way(100)
    key, engine = fleet.places[0].key, fleet.places[0].engine
    assert engine is not None
    names = [
        f"{n}.{i}#0" for n, g in fleet._journal._groups.items() for i, e in enumerate(g.entries) if e.engine == key
    ]
    with fleet._changed:
        late = engine.drain(5.0, 30.0).reports
        fleet._journal.lost(key)
        assert {one.id for one in late} <= set(names)
        fleet._journal.record(late)
        assert fleet._journal.dropped >= sum(len(one.token_ids) for one in late) > 0
        fleet._dispatch()
    asked.all()


def test_a_call_that_is_broken_off_leaves_nothing(fleet: Fleet) -> None:
    def stop(group: Group) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet.generate(PROMPTS, LONG, seed=5, done=stop)
    assert fleet._journal._groups == {}
    assert fleet.generate(PROMPTS[:2], SHORT, seed=3) == fleet.generate(PROMPTS[:2], SHORT, seed=3)


def test_a_prompt_with_a_token_that_the_model_has_not_is_refused(fleet: Fleet) -> None:
    with pytest.raises(InputError, match=r"id 300, but the model has 300 embeddings"):
        fleet.generate([Prompt("0", "", (5, 300))], SHORT, seed=0)


def test_everything_listens_on_loopback_alone(fleet: Fleet) -> None:
    ours = psutil.Process().children(recursive=True)
    addresses = {
        connection.laddr.ip
        for process in ours
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}
