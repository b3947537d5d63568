"""Supervised fine-tuning for real on a tiny model: packing, held-out loss, resume after kill -9, and a sweep."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import finish, kill_while_saving, run_folder, start, timeless

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.model.digests import damage
from evolpo.recipes.config import SftConfig, TrainConfig
from evolpo.recipes.dft_data import Example
from evolpo.recipes.runs.resume import saved_config
from evolpo.recipes.sft import NegativeLogLikelihood, encode_example, heldout_losses, load_examples, sft
from evolpo.rl.batching import collate, make_micro_batches
from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.data import Row
from evolpo.rl.logprobs import Policy
from evolpo.rl.logs.metrics import read_metrics
from evolpo.rollout.prompts import DataConfig

STEPS = 5
FIELDS = [
    "data=arithmetic",
    "data.train=[{kind: reasoning_gym, family: chain_sum, size: 60}]",
    "data.heldout_size=10",
    "examples_per_step=8",
    "trainer.learning_rate=0.01",
    "trainer.precision=fp32",
]


def command(model: str, *extra: str) -> list[str]:
    return [sys.executable, "-m", "evolpo.recipes.cli", "sft", f"model.path={model}", *FIELDS, *extra]


def test_the_response_ends_with_the_end_of_sequence(tiny_model_path: str) -> None:
    tokenizer = load_tokenizer(tiny_model_path)
    row = encode_example(Example("sys", "1 + 1 =", "The answer is 2."), tokenizer)
    assert row.response_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.response_ids[:-1]) == "The answer is 2."
    assert tokenizer.decode(row.prompt_ids).endswith("<|assistant|>")
    assert row.advantage == 1.0


# -- packing ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tiny_model_path: str) -> list[Row]:
    """Examples of different lengths, each in a pack of its own."""
    tokenizer = load_tokenizer(tiny_model_path)
    texts = [("1 + 1 =", "2"), ("what is one and two?", "one and two is three. so 3."), ("3", "the sum is three. " * 3)]
    examples = [Example("add the numbers", prompt, response) for prompt, response in texts]
    encoded = [encode_example(example, tokenizer) for example in examples]
    return [Row(i, r.prompt_ids, r.response_ids, r.units, 1.0, r.rollout_logprobs) for i, r in enumerate(encoded)]


def packed_loss(policy: Policy, rows: list[Row]) -> torch.Tensor:
    """The loss of one micro-batch that holds all rows."""
    [packs] = make_micro_batches(rows, range(len(rows)), budget=4096)
    micro = collate(rows, packs, torch.device("cpu"))
    assert micro.input_ids.numel() == sum(len(row.prompt_ids + row.response_ids) for row in rows)  # no padding
    logprobs, *_ = policy(micro)
    tokens = sum(len(row.response_ids) for row in rows)
    value, _ = NegativeLogLikelihood()(
        logprobs, logprobs, micro.advantages, micro.mask, micro.units, denominator=float(tokens)
    )
    return value


def single_loss(model: torch.nn.Module, rows: list[Row], *, on_prompt: bool = False) -> torch.Tensor:
    """The same, an example at a time, from the model's own logits and its own loss function's labels."""
    total, tokens = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        labels = ids.clone()
        if not on_prompt:
            labels[:, : len(row.prompt_ids)] = -100
        logits = model(input_ids=ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
        tokens += int((labels[0, 1:] != -100).sum())
    return total / tokens


def test_a_packed_batch_has_the_loss_and_gradient_of_one_example_at_a_time(
    tiny_model_path: str, rows: list[Row]
) -> None:
    policy = Policy(load_model(tiny_model_path, torch.float32)).eval()
    plain = load_model(tiny_model_path, torch.float32).eval()
    ours, theirs = packed_loss(policy, rows), single_loss(plain, rows)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    expected = dict(plain.named_parameters())
    for name, parameter in policy.model.named_parameters():
        assert (parameter.grad - expected[name].grad).abs().max() < 1e-5, name
    assert abs(single_loss(plain, rows, on_prompt=True).item() - ours.item()) > 0.01


def test_the_loss_acts_through_the_places_that_predict_a_response_token_alone(
    tiny_model_path: str, rows: list[Row]
) -> None:
    policy = Policy(load_model(tiny_model_path, torch.float32)).eval()
    hidden: list[torch.Tensor] = []

    def keep(_: object, __: object, output: object) -> None:
        hidden.append(output.last_hidden_state)
        hidden[0].retain_grad()

    policy.model.base_model.register_forward_hook(keep)
    packed_loss(policy, rows).backward()
    touched = (hidden[0].grad[0].abs().sum(dim=1) > 0).tolist()
    expected = []
    for row in sorted(rows, key=lambda row: -len(row.prompt_ids + row.response_ids)):
        expected += [False] * (len(row.prompt_ids) - 1) + [True] * len(row.response_ids) + [False]
    assert touched == expected


# -- held-out examples --------------------------------------------------------------------------------------------


def write_examples(path: Path, prompts: list[str]) -> None:
    lines = [json.dumps({"prompt": prompt, "response": str(i)}) for i, prompt in enumerate(prompts)]
    path.write_text("\n".join(lines) + "\n")


def test_a_file_gives_the_same_held_out_examples_to_every_run(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_examples(path, [f"question {i // 2}" for i in range(40)])  # each twice

    def split(seed: int, **fields: object) -> tuple[list[Example], list[Example]]:
        return load_examples(SftConfig(path=str(path), heldout_examples=8, seed=seed, **fields))

    train, heldout = split(0)
    assert len(heldout) == 8
    assert not {one.prompt for one in train} & {one.prompt for one in heldout}
    assert split(0) == (train, heldout)
    assert split(1)[1] != heldout
    assert split(0, data=DataConfig(seed=5)) == split(1, data=DataConfig(seed=5))
    assert load_examples(SftConfig(path=str(path)))[1] == []
    with pytest.raises(InputError, match="heldout_examples: 40 of 40"):
        load_examples(SftConfig(path=str(path), heldout_examples=40))
    with pytest.raises(InputError, match="heldout_examples: is for"):
        SftConfig(heldout_examples=1)


@given(st.lists(st.lists(st.floats(-9, 0), min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_the_held_out_loss_is_the_mean_over_tokens_and_that_of_the_modes(
    logprobs: list[list[float]], data: st.DataObject
) -> None:
    modes = data.draw(st.lists(st.sampled_from(["direct", "deep"]), min_size=len(logprobs), max_size=len(logprobs)))
    examples = [Example("", "p", "r", mode) for mode in modes]
    losses = heldout_losses(dict(enumerate(logprobs)), examples)
    tokens = {mode: [x for m, line in zip(modes, logprobs, strict=True) if m == mode for x in line] for mode in modes}
    assert losses["eval/loss"] == pytest.approx(-sum(map(sum, logprobs)) / sum(map(len, logprobs)))
    assert len(losses) == (3 if len(tokens) == 2 else 1)
    if len(tokens) == 2:
        whole = sum(losses[f"eval/{mode}/loss"] * len(part) for mode, part in tokens.items())
        assert whole / sum(map(len, tokens.values())) == pytest.approx(losses["eval/loss"])


# -- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twins(tiny_model_path: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same killed while it saved its second checkpoint, beside a step, and resumed; read only."""
    folder = tmp_path_factory.mktemp("twins")
    fields = [f"steps={STEPS}", "trainer.save_every=2", "trainer.keep_checkpoints=0", "evaluate_every=3"]
    whole = start(command(tiny_model_path, "name=whole", *fields), folder)
    killed = start(command(tiny_model_path, "name=killed", *fields, "trainer.save_background=true"), folder)
    kill_while_saving(killed, folder, "killed", step=4)
    out, _ = finish(whole)
    run, broken = run_folder(folder, "whole"), run_folder(folder, "killed")
    assert folder / out.splitlines()[-1] == run / "model"
    assert [step for step, _ in list_checkpoints(broken)] == [2]
    assert not (broken / "model").exists()
    finish(start([*command(tiny_model_path)[:4], f"resume={broken}"], folder))
    return run, broken


@pytest.mark.timeout(600)
def test_a_run_that_was_killed_while_saving_goes_on_bit_identically(twins: tuple[Path, Path]) -> None:
    run, resumed = twins
    assert [step for step, _ in list_checkpoints(run)] == [2, 4, STEPS]
    for step, theirs in list_checkpoints(run):
        ours = resumed / "checkpoints" / f"step_{step}"
        for name in ("model.safetensors", "optimizer/rank_0.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), f"step {step}: {name}"
        states = [json.loads((one / "state.json").read_text()) for one in (ours, theirs)]
        for state in states:
            del state["metrics"], state["sha256"]  # the log has times of day in it
        assert states[0] == states[1]
    weights = (run / "checkpoints" / f"step_{STEPS}" / "model.safetensors").read_bytes()
    for one in twins:
        assert (one / "model" / "model.safetensors").read_bytes() == weights
    records = read_metrics(run / "metrics.jsonl")
    assert [one["step"] for one in records] == list(range(1, STEPS + 1))
    assert timeless(read_metrics(resumed / "metrics.jsonl")) == timeless(records)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_waits_for_the_checkpoint_that_is_being_written(
    tiny_model_path: str, tmp_path: Path, ranks: int
) -> None:
    fields = ["name=ended", "steps=500", "trainer.save_every=1", "trainer.save_background=true", f"processes={ranks}"]
    process = subprocess.Popen(
        command(tiny_model_path, *fields),
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a terminal tells a whole group of processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs beside a shell ignores it
    )
    deadline = time.monotonic() + 200
    while not (found := list(tmp_path.glob("outputs/ended/*/checkpoints/.step_*.partial/optimizer/*"))):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    begun = int(found[0].parent.parent.name.split("_")[1].removesuffix(".partial"))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGINT, err[-3000:]
    checkpoints = run_folder(tmp_path, "ended") / "checkpoints"
    assert [one.name for one in checkpoints.glob(".*")] == []
    assert list_checkpoints(checkpoints.parent)[-1][0] >= begun
    assert damage(list_checkpoints(checkpoints.parent)[-1][1]) is None


def check_losses(run: Path, step: int) -> None:
    """The held-out losses of a step against the model's own logits on what `load_examples` holds out."""
    examples, heldout = load_examples(OmegaConf.to_object(saved_config(run, SftConfig, "run")))
    assert len(heldout) == 10
    assert not {one.prompt for one in examples} & {one.prompt for one in heldout}
    [record] = [one for one in read_metrics(run / "metrics.jsonl") if one["step"] == step]
    model, tokenizer = load_model(str(run / "model"), torch.float32), load_tokenizer(str(run / "model"))
    modes = {"": heldout} | {f"{mode}/": [e for e in heldout if e.mode == mode] for mode in ("direct", "sentences")}
    for mode, part in modes.items():
        with torch.no_grad():
            expected = single_loss(model, [encode_example(example, tokenizer) for example in part]).item()
        assert record[f"eval/{mode}loss"] == pytest.approx(expected, abs=1e-5)


def test_the_held_out_loss_is_that_of_the_models_own_logits(twins: tuple[Path, Path]) -> None:
    run, _ = twins
    assert [one["step"] for one in read_metrics(run / "metrics.jsonl") if "eval/loss" in one] == [3, STEPS]
    check_losses(run, STEPS)


@pytest.mark.timeout(300)
def test_two_ranks_share_the_held_out_examples(tiny_model_path: str, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher += ["--nproc-per-node", "2"]
    finish(start([*launcher, *command(tiny_model_path, "name=two", "steps=1")[1:]], tmp_path))
    check_losses(run_folder(tmp_path, "two"), 1)


def test_a_checkpoint_is_refused_for_other_examples_and_by_other_commands(twins: tuple[Path, Path]) -> None:
    """`steps` decides how many worked solutions are made: more of them would change the data already seen."""
    run, _ = twins
    config: Any = OmegaConf.to_object(saved_config(run, SftConfig, "run"))
    longer = replace(config, steps=STEPS + 1, resume=str(run))
    with pytest.raises(InputError, match="resume: the checkpoint was made with other examples; resume as"):
        sft(longer)
    with pytest.raises(InputError, match="made with other seed, examples_per_step, examples;"):
        sft(replace(config, seed=1, examples_per_step=10, data=replace(config.data, seed=0), resume=str(run)))
    with pytest.raises(InputError, match=r"resume: .* is no run of evolpo train .*examples_per_step"):
        saved_config(run, TrainConfig, "resume")


def test_a_sweep_runs_each_job_in_a_process_of_its_own(tiny_model_path: str, tmp_path: Path) -> None:
    arguments = command(tiny_model_path, "steps=6", "seed=0,1", "--multirun")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = done.stdout.split()
    assert len(set(folders)) == 2
    for folder in folders:
        losses = [row["loss"] for row in read_metrics(tmp_path / folder / ".." / "metrics.jsonl")]
        assert len(losses) == 6
        assert losses[-1] < losses[0] - 0.5
        assert load_model(str(tmp_path / folder)).config.vocab_size == 300
