"""Checkpoints beside the next steps: the bytes of those that a run waits for, and no failure of the disk is silent."""

from pathlib import Path

import pytest
from launching import launch

from evolpo.model.digests import damage
from evolpo.rl.checkpoint import list_checkpoints

WORKER = Path(__file__).with_name("saving_worker.py")


@pytest.fixture(scope="module", params=[(1, 1), (2, 3)], ids=["one rank", "two ranks, stage 3"])
def saved(request, tiny_model_path, tmp_path_factory):
    ranks, stage = request.param
    jobs = [{"model": str(tiny_model_path), "stage": stage}]
    return launch(jobs, ranks, tmp_path_factory.mktemp("saving") / "run", WORKER)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_step_runs_meanwhile_and_changes_nothing_of_it(saved):
    assert saved["waited"]
    assert all(saved["waited"])  # the step has ended before the first file was begun
    now, beside = (files_of(saved.folder / name / "checkpoints" / "step_1") for name in ("now", "beside"))
    assert beside == now
    assert len([name for name in now if name.startswith("model-")]) > 2


def test_a_disk_that_refuses_is_told_to_all_ranks(saved):
    for name in ("now", "beside"):
        told = {rank[f"refused_{name}"] for rank in saved.ranks}
        assert len(told) == 1
        assert "File too large" in next(iter(told))
        assert told.pop().startswith("the checkpoint of step 2 cannot be written (")
        assert [step for step, _ in list_checkpoints(saved.folder / name)] == [1]
        assert damage(saved.folder / name / "checkpoints" / "step_1") is None
        assert [one.name for one in (saved.folder / name / "checkpoints").iterdir()] == ["step_1"]


def test_a_step_that_fails_does_not_take_the_checkpoint_along(saved):
    for rank in saved.ranks:
        assert rank["failed"] == [3]
        assert rank["notes"] == []
    assert damage(saved.folder / "failed" / "checkpoints" / "step_3") is None
