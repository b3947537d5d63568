"""What a fleet refuses before anything is started, in one line with the field and the mend."""

import os
import socket
from dataclasses import replace

import pytest
import torch

from evolpo import InputError
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.fleet import check_fleet, samplers, trainers
from evolpo.rl.algorithm import AlgorithmConfig
from evolpo.rollout.engine import FleetConfig, RolloutConfig
from evolpo.rollout.engine_actor import Description, check_address, files_of, installed, last_cards
from evolpo.rollout.fleet import check_same


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("engines", -1, "rollout.fleet.engines: -1 is negative"),
        ("max_staleness", -1, "rollout.fleet.max_staleness: -1 is negative"),
        ("bound", "firm", "rollout.fleet.bound: 'firm' is none of hard, soft"),
        ("in_flight", "abort", "rollout.fleet.in_flight: 'abort' is none of recompute, keep"),
        ("stall_s", 0.0, "rollout.fleet.stall_s: 0.0 is not above 0"),
        ("gpus_per_engine", float("inf"), "rollout.fleet.gpus_per_engine: inf is not above 0"),
        ("threads", -2, "rollout.fleet.threads: -2 is negative"),
    ],
)
def test_a_field_out_of_range(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FleetConfig(**{"engines": 1, field: value})


@pytest.mark.parametrize(("field", "value"), [("max_staleness", 1), ("address", "10.0.0.1:6379")])
def test_fields_of_a_fleet_without_engines(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"rollout.fleet.{field}: is for a fleet; set rollout.fleet.engines=1"):
        FleetConfig(**{field: value})


def test_sleep_is_for_an_engine_beside_the_trainer() -> None:
    with pytest.raises(InputError, match=r"rollout\.sleep_level: engines of a fleet do not sleep"):
        RolloutConfig(sleep_level=1, fleet=FleetConfig(engines=1))


def test_staleness_wants_a_correction() -> None:
    rollout = RolloutConfig(fleet=FleetConfig(engines=1, max_staleness=1))
    with pytest.raises(InputError, match=r"algorithm\.correction: none, but rollout\.fleet\.max_staleness=1 .*tis"):
        TrainConfig(rollout=rollout)
    TrainConfig(rollout=rollout, algorithm=AlgorithmConfig(correction="icepop"))


def test_more_engines_than_fit(served_model_path: str) -> None:
    rollout = RolloutConfig(kv_cache_gb=1.0, fleet=FleetConfig(engines=4000))
    with pytest.raises(InputError, match=r"rollout\.fleet\.engines: 4000 engines of .* GiB are more than .* give \d+"):
        check_fleet(served_model_path, rollout, "fp32")
    check_fleet(served_model_path, replace(rollout, kv_cache_gb=0.01, fleet=FleetConfig(engines=1)), "fp32")
    check_fleet(served_model_path, RolloutConfig(kv_cache_gb=4000.0), "fp32")  # there is none
    with pytest.raises(InputError, match="nonsense"):
        check_fleet(served_model_path, RolloutConfig(fleet=FleetConfig(engines=1, address="nonsense")), "fp32")


@pytest.mark.parametrize("address", ["nonsense", ":80", "host:", "127.0.0.1:99999", "no.such.host.invalid:6379"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(InputError, match=r"rollout\.fleet\.address: .*(is no HOST:PORT|no Ray cluster answers)"):
        check_address(address)


def test_an_address_that_does_not_answer() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port}: no Ray cluster answers"):
        check_address(f"127.0.0.1:{port}")


def test_a_machine_that_differs_is_named(served_model_path: str) -> None:
    same = Description(1, "there", (0,), 300, 16, installed(), files_of(served_model_path))
    check_same(same, served_model_path)
    other = replace(same, packages={**installed(), "torch": "2.0"})
    with pytest.raises(InputError, match=r"there has torch 2\.0, this machine 2\..*; install the same on both"):
        check_same(other, served_model_path)
    with pytest.raises(InputError, match=r"model\.path: there has other files in "):
        check_same(replace(same, model=(("config.json", 1),)), served_model_path)


@pytest.mark.parametrize(("before", "inside"), [(None, "6,7"), ("3,5,1", "5,1"), ("2", "2")])
def test_engines_see_the_last_cards(monkeypatch: pytest.MonkeyPatch, before: str | None, inside: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with last_cards(min(2, len(before.split(","))) if before else 2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == inside
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_processes_beside_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert samplers(0, FleetConfig(engines=2)) == 1
    assert samplers(3, FleetConfig()) == 3
    with pytest.raises(InputError, match="processes: 2 beside a fleet have nothing to do; set processes=1"):
        samplers(2, FleetConfig(engines=1))
    assert trainers(0, FleetConfig()) == 0
    assert trainers(0, FleetConfig(engines=1)) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert trainers(0, FleetConfig(engines=2)) == 6
    assert trainers(0, FleetConfig(engines=5, gpus_per_engine=0.5)) == 5
    assert trainers(0, FleetConfig(engines=2, address="10.0.0.1:6379")) == 0
    assert trainers(4, FleetConfig(engines=2)) == 4
