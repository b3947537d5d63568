"""The trainer in real processes: one rank and two over gloo, all ZeRO stages, against a plain loop and against itself.

Importing DeepSpeed takes seconds, so one process runs many jobs (trainer_worker.py) and the tests look at the results.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launching import launch
from safetensors.torch import load_file
from trainer_worker import GROUPS, SILENT_GROUP, SIZE, make_rows

from evolpo import InputError
from evolpo.model import DTYPES, load_model
from evolpo.rl.data import Row
from evolpo.rl.trainer import split_rows
from evolpo.rl.training.config import TrainerConfig, learning_rate
from evolpo.rl.training.optimizer_state import OPTIMIZER

STAGES = (0, 1, 2, 3)
RATE = 1e-3
CONFIG = {"precision": "fp32", "learning_rate": RATE, "tokens_per_micro_batch": 4096}
TWO_RANKS = {
    "halves": [[0, 1], [2, 3]],
    "uneven": [[3], [0, 1, 2]],
    "empty": [[0, 1, 2, 3], []],
    "silent": [[SILENT_GROUP], [0, 2, 3]],
}
# Each pair costs a second or more on two ranks; a rank without rows could hang any stage.
TWO_RANK_PAIRS = [("empty", 0), ("empty", 1), ("empty", 2), ("empty", 3)]
TWO_RANK_PAIRS += [("uneven", 0), ("uneven", 3), ("halves", 1), ("silent", 2)]
SAVED = {1: [(p, s) for p in ("fp32", "bf16") for s in STAGES], 2: [("fp32", 0), ("fp32", 1), ("bf16", 2), ("bf16", 3)]}
AWAY = [("fp32", 0), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]
SAVED_CASES = [(ranks, *pair) for ranks, pairs in SAVED.items() for pair in pairs]


@pytest.fixture(scope="module")
def paths(tiny_model_path, other_tiny_model_path, tmp_path_factory):
    """The model, another one as reference policy, and a folder for the runs."""
    return {
        "model": tiny_model_path,
        "reference": other_tiny_model_path,
        "base": tmp_path_factory.mktemp("trainer"),
    }


def job(paths, name, stage=1, config=None, **fields):
    return {"name": name, "model": paths["model"], "config": CONFIG | {"zero_stage": stage} | (config or {}), **fields}


def parity_jobs(paths, groups):
    """Two optimizer steps an update and a KL penalty: from the second on, every loss depends on the weights."""
    fields = {"optimizer_steps": 2, "options": {"kl_coef": 0.05}, "reference": paths["reference"], "groups": groups}
    return [job(paths, f"parity_{stage}", stage, **fields) for stage in STAGES]


def save_jobs(paths, folder, pairs, groups):
    """Four steps, saved after the second, under a learning rate that changes with every step."""
    schedule = {"schedule": "cosine", "warmup_steps": 1, "weight_decay": 0.1}
    return [
        job(
            paths,
            f"save_{precision}_{stage}",
            stage,
            schedule | {"precision": precision},
            groups=groups,
            steps=4,
            save_after=2,
            folder=str(folder / f"checkpoint_{precision}_{stage}"),
        )
        for precision, stage in pairs
    ]


def resume_jobs(saved):
    """The last two steps of each job of `saved`, from what it wrote."""
    resumed = {"steps": 2, "start": 2, "load": True, "save_after": 0}
    return [one | resumed | {"name": one["name"].replace("save", "resume")} for one in saved]


def plain_job(paths, name, stage, groups, budget):
    """Three steps with the gradient of the first written."""
    config = {"tokens_per_micro_batch": budget}
    return job(paths, name, stage, config, groups=groups, steps=3, gradient=True)


@pytest.fixture(scope="module")
def one(paths):
    """Everything that one rank does."""
    everything = [list(range(GROUPS))]
    penalty = {"kl_coef": 0.1}
    jobs = parity_jobs(paths, everything) + save_jobs(paths, paths["base"] / "one", SAVED[1], everything)
    jobs += [plain_job(paths, f"plain_{s}_{budget}", s, everything, budget) for s in STAGES for budget in (16, 4096)]
    for budget in (16, 4096):
        config = {"tokens_per_micro_batch": budget}
        jobs.append(job(paths, f"grpo_{budget}", config=config, loss="grpo", steps=3, gradient=True))
    for stage in STAGES:
        config = {"precision": "bf16", "learning_rate": 2e-4}
        jobs.append(job(paths, f"bf16_{stage}", stage, config, steps=8, fixed=True))
        jobs.append(job(paths, f"silent_{stage}", stage, steps=2, signal=False))
    jobs.append(job(paths, "two_steps", steps=1, optimizer_steps=2))
    jobs.append(job(paths, "no_reference", steps=1, reference="/there/is/no/such/model"))
    jobs.append(job(paths, "kl_only", steps=2, signal=False, options=penalty, reference=paths["reference"]))
    jobs.append(job(paths, "kl_to_itself", steps=1, signal=False, options=penalty, reference=paths["model"]))
    jobs.append(job(paths, "checkpointing", config={"activation_checkpointing": True}, steps=3, gradient=True))
    return launch(jobs, 1, paths["base"] / "one")


@pytest.fixture(scope="module")
def memory(paths):
    """What concerns memory and waiting, on one rank."""
    everything = [list(range(GROUPS))]
    jobs = [job(paths, "reads", config={"tokens_per_micro_batch": 16}, steps=1, reads=True)]
    for one_job in save_jobs(paths, paths["base"] / "away", AWAY, everything):
        config = one_job["config"] | {"offload": "rollout"}
        jobs.append(one_job | {"name": one_job["name"].replace("save", "away"), "config": config})
    for stage in STAGES[1:]:
        config = {"precision": "bf16", "learning_rate": 2e-4, "offload": "always"}
        jobs.append(job(paths, f"always_{stage}", stage, config, steps=8, fixed=True))
    for stage in STAGES:
        for copies in (1, 16):
            config = {"precision": "bf16", "tokens_per_micro_batch": 16}
            jobs.append(job(paths, f"sum_{stage}_{copies}", stage, config, copies=copies, steps=1, sums=True))
    return launch(jobs, 1, paths["base"] / "memory")


@pytest.fixture(scope="module")
def one_resumed(paths, one):
    """One rank again, in a new process, from the checkpoints of the first; and from ones that do not fit."""
    saved = save_jobs(paths, one.folder, SAVED[1], [list(range(GROUPS))])
    wrong = []
    for own, other in ((0, 1), (1, 0), (1, 3), (3, 1)):
        fields = {"load": True, "start": 2, "steps": 1, "folder": str(one.folder / f"checkpoint_fp32_{other}")}
        wrong.append(job(paths, f"stage_{own}_from_{other}", own, **fields))
    return launch(resume_jobs(saved) + wrong, 1, paths["base"] / "one_resumed")


@pytest.fixture(scope="module")
def two(paths):
    """Everything that two ranks do."""
    # The two optimizer steps of an update must hold the same groups as on one rank: 0 and 1, then 2 and 3.
    jobs = parity_jobs(paths, [[0, 2], [1, 3]])
    jobs += [plain_job(paths, f"{name}_{stage}", stage, TWO_RANKS[name], 24) for name, stage in TWO_RANK_PAIRS]
    for name in ("uneven", "empty"):
        jobs.append(job(paths, f"grpo_{name}", groups=TWO_RANKS[name], loss="grpo", steps=3, gradient=True))
    jobs += save_jobs(paths, paths["base"] / "two", SAVED[2], TWO_RANKS["uneven"])
    return launch(jobs, 2, paths["base"] / "two")


@pytest.fixture(scope="module")
def two_resumed(paths, two, one):
    """Two ranks again, in new processes."""
    saved = save_jobs(paths, two.folder, SAVED[2], TWO_RANKS["uneven"])
    wrong = {"load": True, "start": 2, "steps": 1, "folder": str(one.folder / "checkpoint_fp32_1")}
    jobs = [*resume_jobs(saved), job(paths, "wrong_ranks", groups=TWO_RANKS["halves"], **wrong)]
    return launch(jobs, 2, paths["base"] / "two_resumed")


# -- against a plain loop -----------------------------------------------------------------------------------------


def slow_loss(model, rows):
    """LPO on-policy by its formula, row by row: the ratio is one, its gradient is not."""
    total = sum(len(row.response_ids) for row in rows)
    loss = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        logs = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1].log_softmax(-1)
        logprobs = logs.gather(1, torch.tensor(row.response_ids)[:, None]).squeeze(1)
        change = logprobs - logprobs.detach()
        for unit in set(row.units):
            members = torch.tensor([u == unit for u in row.units])
            loss = loss - members.sum() * change[members].mean().exp() * row.advantage / total
    return loss


@pytest.fixture(scope="module")
def slow(paths):
    """Losses, gradient norms, first gradient and final weights of a plain loop over three steps."""
    model = load_model(paths["model"], torch.float32).eval()
    vectors = [p for p in model.parameters() if p.dim() < 2]
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors}], lr=RATE, betas=(0.9, 0.95), weight_decay=0.0
    )
    found = {"loss": [], "grad_norm": []}
    for step in range(3):
        optimizer.zero_grad()
        loss = slow_loss(model, make_rows(step))
        loss.backward()
        found["loss"].append(loss.item())
        found["grad_norm"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        if step == 0:
            found["gradient"] = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    return found | {"weights": {name: p.detach() for name, p in model.named_parameters()}}


def worst(first, second):
    """Largest deviation of two sets of tensors, as a share of the largest value of all."""
    assert set(first) == set(second)
    scale = max(tensor.abs().max().item() for tensor in second.values())
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first) / scale


def assert_equals_slow(run, name, slow):
    assert run.metric(name, "loss") == pytest.approx(slow["loss"], abs=1e-5)
    assert run.metric(name, "grad_norm") == pytest.approx(slow["grad_norm"], rel=1e-5)
    assert worst(run.tensors(name, "gradient"), slow["gradient"]) <= 1e-5
    # Adam divides by the size of the gradient, so that rounding of a tiny one shows.
    assert worst(run.tensors(name, "weights"), slow["weights"]) <= 1e-4


@pytest.mark.parametrize("budget", [16, 4096])
@pytest.mark.parametrize("stage", STAGES)
def test_any_split_into_micro_batches_equals_the_plain_loop(one, slow, stage, budget):
    assert_equals_slow(one, f"plain_{stage}_{budget}", slow)


@pytest.mark.parametrize(("groups", "stage"), TWO_RANK_PAIRS)
def test_any_split_over_two_ranks_equals_the_plain_loop(two, slow, groups, stage):
    assert_equals_slow(two, f"{groups}_{stage}", slow)


def test_activation_checkpointing_changes_nothing(one, slow):
    assert_equals_slow(one, "checkpointing", slow)


def test_splits_really_differ(one, two):
    """A smaller budget leaves less padding; the ranks of `uneven` have different numbers of micro-batches."""
    padded = [one.metric(f"plain_1_{budget}", "train/computed_tokens")[0] for budget in (16, 4096)]
    assert padded[0] != padded[1]
    trained = [len(rank["uneven_0"]["old_logprobs"]) for rank in two.ranks]
    assert trained == [SIZE, 2 * SIZE]  # one of the second rank's three groups is silent
    assert [len(rank["empty_0"]["old_logprobs"]) for rank in two.ranks] == [3 * SIZE, 0]


def test_means_over_responses_do_not_depend_on_the_split_either(one, two):
    expected = one.tensors("grpo_4096", "gradient")
    assert worst(one.tensors("grpo_16", "gradient"), expected) <= 1e-5
    for groups in ("uneven", "empty"):
        assert worst(two.tensors(f"grpo_{groups}", "gradient"), expected) <= 1e-5
        assert two.metric(f"grpo_{groups}", "loss") == pytest.approx(one.metric("grpo_4096", "loss"), abs=1e-5)


# -- stages and ranks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_on_one_rank_and_on_two_has_the_same_losses(one, two, ranks, stage):
    run = one if ranks == 1 else two
    for name in ("loss", "grad_norm", "kl", "ratio/mean"):
        expected = one.metric("parity_1", name)
        assert len(expected) == 5
        assert run.metric(f"parity_{stage}", name) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert run[f"parity_{stage}"]["updates"] == 10
    for rank in run.ranks:
        assert rank[f"parity_{stage}"]["digest"] == run[f"parity_{stage}"]["digest"]


def test_parity_runs_are_no_trivial_ones(one):
    losses = one.metric("parity_1", "loss")
    assert len({round(loss, 3) for loss in losses}) == 5
    assert max(one.metric("parity_1", "ratio/max")) > 1.01
    assert max(one.metric("parity_1", "clip/high")) > 0


def objective(logprobs):
    """Advantage-weighted log-probability of the rows of step 0: what on-policy steps on them raise."""
    rows = make_rows()
    return sum(row.advantage * sum(logprobs[str(i)]) for i, row in enumerate(rows))


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_trains_fp32_master_weights_and_the_loss_falls(one, stage):
    result = one[f"bf16_{stage}"]
    assert result["weight_dtypes"] == ["torch.bfloat16"]
    assert result["master_dtypes"] == ["torch.float32"]
    values = [objective(logprobs) for logprobs in result["evaluations"]]
    assert len(values) == 9
    assert values[-1] > values[4] > values[0] + 1


def test_all_stages_agree_in_bf16(one):
    """The same micro-batches: where the weights lie does not matter, not even for how many steps Adam has seen."""
    for stage in STAGES:
        for name in ("loss", "grad_norm"):
            assert one.metric(f"bf16_{stage}", name) == pytest.approx(one.metric("bf16_1", name), rel=1e-3)


# -- what an update is --------------------------------------------------------------------------------------------


def repeated_error(run, stage):
    """How far the gradient of 16 times the same micro-batches is from that of one time, in the norm."""
    first, many = (run.tensors(f"sum_{stage}_{copies}", "gradient") for copies in (1, 16))
    masters = len(first) // 3  # then the two moments of each: the first is the gradient times 0.1
    first, many = (
        {name: one[name] for name in one if int(name) >= masters and int(name) % 2 == masters % 2}
        for one in (first, many)
    )
    difference = sum((many[name].float() - first[name].float()).square().sum() for name in first)
    return (difference / sum(first[name].float().square().sum() for name in first)).sqrt()


@pytest.mark.parametrize("stage", STAGES[1:])
def test_gradients_of_many_micro_batches_add_up_in_fp32(memory, stage):
    assert repeated_error(memory, stage) < 1e-3
    assert repeated_error(memory, 0) > 0.01  # DeepSpeed adds up in bf16 there, where small parts vanish


@pytest.mark.parametrize(("precision", "stage"), AWAY)
def test_states_that_go_away_and_come_back_are_the_same_bits(one, memory, precision, stage):
    stayed, went = one[f"save_{precision}_{stage}"], memory[f"away_{precision}_{stage}"]
    assert went["digest"] == stayed["digest"]
    assert went["master_digest"] == stayed["master_digest"]
    files = [paths_of(one.folder.parent / name / f"checkpoint_{precision}_{stage}") for name in ("one", "away")]
    assert files[0].keys() == files[1].keys()
    for name, tensors in files[0].items():
        assert all(torch.equal(tensors[key], files[1][name][key]) for key in tensors)


def paths_of(checkpoint):
    """The optimizer's files of a checkpoint, read."""
    return {file.name: load_file(file) for file in (checkpoint / OPTIMIZER).glob("*.safetensors")}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_states_that_stay_on_the_cpu_train_the_same(one, memory, stage):
    for name in ("grad_norm", "loss"):
        assert memory.metric(f"always_{stage}", name) == pytest.approx(one.metric(f"bf16_{stage}", name), rel=1e-3)
    assert memory[f"always_{stage}"]["changed"]


def test_the_host_reads_little_between_micro_batches(memory):
    """On a GPU each reading waits for all that runs: who sees whom, and how many units there are, and no metric."""
    assert memory["reads"]["changed"]
    micro_batches = 2 * SIZE + SIZE  # three groups with a signal, a row each
    assert 0 < len(memory["reads"]["reads"]) <= 2 * micro_batches


def test_rows_without_advantage_cost_nothing_and_count(one):
    for step in range(3):
        rows = make_rows(step)
        trained = [row for row in rows if row.group != SILENT_GROUP]
        metrics = one["plain_1_4096"]["metrics"][step]
        assert metrics["train/rows"] == len(trained) == (GROUPS - 1) * SIZE
        assert metrics["train/tokens"] == sum(len(row.response_ids) for row in trained)
        weighted = sum(row.advantage * len(row.response_ids) for row in rows)
        assert metrics["loss"] == pytest.approx(-weighted / sum(len(row.response_ids) for row in rows), abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_without_any_signal_there_is_no_optimizer_step(one, stage):
    result = one[f"silent_{stage}"]
    assert result["updates"] == 0
    assert not result["changed"]
    assert all("loss" not in metrics and "grad_norm" not in metrics for metrics in result["metrics"])
    assert not result["old_logprobs"]


def test_no_penalty_loads_no_reference(one):
    assert one["no_reference"]["updates"] == 1
    assert not one["no_reference"]["reference"]


def test_a_penalty_has_a_gradient_without_any_advantage(one):
    result = one["kl_only"]
    assert result["reference"]
    assert result["updates"] == 2
    assert result["changed"]
    assert one.metric("kl_only", "grad_norm")[0] > 1e-3
    assert one.metric("kl_only", "kl")[0] > 0
    assert one.metric("kl_only", "train/rows") == [GROUPS * SIZE] * 2
    assert one.metric("kl_only", "loss")[0] == pytest.approx(0.1 * one.metric("kl_only", "kl")[0], rel=1e-5)


def test_a_penalty_towards_the_policy_itself_is_zero(one):
    assert one.metric("kl_to_itself", "kl") == [0.0]
    assert one.metric("kl_to_itself", "grad_norm") == pytest.approx([0.0], abs=1e-6)


def test_optimizer_steps_share_one_rollout_policy(one):
    result = one["two_steps"]
    rows, before = make_rows(), result["evaluations"][0]
    assert result["updates"] == 2
    trained = [str(i) for i, row in enumerate(rows) if row.group != SILENT_GROUP]
    assert sorted(result["old_logprobs"], key=int) == trained
    for index in trained:
        assert result["old_logprobs"][index] == pytest.approx(before[index], abs=1e-5)
        first_part = rows[int(index)].group < GROUPS // 2
        assert (max(map(abs, result["log_ratios"][index])) > 1e-3) != first_part


def test_the_gap_to_the_rollout_engine_is_measured(one):
    rows, before = make_rows(), one["plain_1_4096"]["evaluations"][0]
    gaps = [
        abs(now - then)
        for i, row in enumerate(rows)
        if row.group != SILENT_GROUP
        for now, then in zip(before[str(i)], row.rollout_logprobs, strict=True)
    ]
    metrics = one["plain_1_4096"]["metrics"][0]
    assert metrics["logprob_gap/mean"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert metrics["logprob_gap/max"] == pytest.approx(max(gaps), rel=1e-4)


# -- saving and resuming ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "precision", "stage"), SAVED_CASES)
def test_a_resumed_run_is_bit_identical(request, ranks, precision, stage):
    whole = request.getfixturevalue("one" if ranks == 1 else "two")
    resumed = request.getfixturevalue("one_resumed" if ranks == 1 else "two_resumed")
    for rank in range(ranks):
        first = whole.ranks[rank][f"save_{precision}_{stage}"]
        second = resumed.ranks[rank][f"resume_{precision}_{stage}"]
        assert second["digest"] == first["digest"]
        assert second["master_digest"] == first["master_digest"]
        assert second["metrics"] == first["metrics"][2:]
        assert second["updates"] == first["updates"] == 4


@pytest.mark.parametrize(("ranks", "precision", "stage"), SAVED_CASES)
def test_the_saved_model_is_the_policy(request, ranks, precision, stage):
    run = request.getfixturevalue("one" if ranks == 1 else "two")
    folder = run.folder / f"checkpoint_{precision}_{stage}"
    assert len(list((folder / OPTIMIZER).iterdir())) == (ranks if stage else 1)  # in stage 0 all have the same
    assert (folder / "tokenizer_config.json").is_file()
    model = load_model(str(folder), DTYPES[precision]).eval()
    logprobs = run[f"save_{precision}_{stage}"]["evaluations"][2]
    allowed = 1e-5 if precision == "fp32" else 0.15
    for index, row in enumerate(make_rows()):
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([row.prompt_ids + row.response_ids])).logits[0].float().log_softmax(-1)
        logs = logs[len(row.prompt_ids) - 1 : -1].gather(1, torch.tensor(row.response_ids)[:, None]).squeeze(1)
        assert logprobs[str(index)] == pytest.approx(logs.tolist(), abs=allowed)


@pytest.mark.parametrize(("own", "other"), [(0, 1), (1, 0), (1, 3), (3, 1)])
def test_a_checkpoint_of_another_stage_is_refused(one_resumed, own, other):
    error = one_resumed[f"stage_{own}_from_{other}"].get("error", "none")
    assert f"trainer.zero_stage={other}; use the same" in error


def test_a_checkpoint_of_another_number_of_ranks_is_refused(two_resumed):
    for rank in two_resumed.ranks:
        assert "written by 1 ranks, this run has 2" in rank["wrong_ranks"]["error"]


# -- without a process of its own ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("zero_stage", 4),
        ("precision", "fp8"),
        ("schedule", "linear"),
        ("learning_rate", 0.0),
        ("max_grad_norm", -1.0),
        ("tokens_per_micro_batch", 0),
        ("save_every", 0),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("keep_checkpoints", -1),
    ],
)
def test_mistakes_name_the_field_in_one_line(field, value):
    with pytest.raises(InputError) as caught:
        TrainerConfig(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"trainer.{field}: ")
    assert str(value) in message
    assert "\n" not in message


def test_learning_rates_worked_by_hand():
    config = TrainerConfig(learning_rate=1.0, warmup_steps=3, schedule="cosine")
    rates = [learning_rate(step, 11, config) for step in (0, 1, 2, 3, 7, 11, 20)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0])
    constant = TrainerConfig(learning_rate=2.0)
    assert [learning_rate(step, 5, constant) for step in (0, 4, 9)] == [2.0, 2.0, 2.0]


def test_schedules_reach_the_optimizer(one):
    config = TrainerConfig(learning_rate=RATE, warmup_steps=1, schedule="cosine")
    expected = [learning_rate(step, 10, config) for step in range(4)]
    assert one.metric("save_fp32_1", "lr") == pytest.approx(expected)
    assert math.isclose(expected[0], RATE / 2)


@given(groups=st.lists(st.integers(0, 6), max_size=30), parts=st.integers(1, 8))
def test_rows_are_split_whole_groups_at_a_time(groups, parts):
    rows = [Row(group, (1,), (2,), (0,), 1.0, (0.0,)) for group in groups]
    split = split_rows(rows, parts)
    assert len(split) == parts
    assert sorted(i for part in split for i in part) == list(range(len(rows)))
    distinct = len(set(groups))
    if distinct >= parts:
        assert sum(len({groups[i] for i in part}) for part in split) == distinct
        sizes = [len({groups[i] for i in part}) for part in split]
    else:
        sizes = [len(part) for part in split]
    assert max(sizes) - min(sizes) <= 1
