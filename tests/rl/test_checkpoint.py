"""A run killed at any moment of saving leaves whole checkpoints only."""

import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from evolpo import InputError
from evolpo.rl.checkpoint import (
    STATE,
    CheckpointError,
    checkpoint_folder,
    find_checkpoint,
    list_checkpoints,
    read_state,
    set_later_aside,
    write_checkpoint,
)

SIZE = 50_000
DIES = 42
# What changes the file system, or brings it to the disk: the process ends right before its N-th one.
WRITER = '''
import os, shutil, sys
from pathlib import Path
from evolpo.rl import checkpoint

run, step, keep, moment = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
count = 0


def may_die():
    global count
    count += 1
    if count == moment:
        os._exit(42)


def dying(function):
    def call(*args, **kwargs):
        may_die()
        return function(*args, **kwargs)

    return call


for name in ("rename", "mkdir", "unlink", "rmdir", "fsync"):
    setattr(os, name, dying(getattr(os, name)))
for name in ("write_text", "rename", "mkdir"):
    setattr(Path, name, dying(getattr(Path, name)))


class SortedScandir:
    """Lists folders by name: model before state, so that deletion begins with what makes a checkpoint whole."""

    scandir = staticmethod(os.scandir)

    def __init__(self, *path):
        self.entries = self.scandir(*path)

    def __enter__(self):
        return iter(sorted(self.entries, key=lambda entry: entry.name))

    def __exit__(self, *error):
        self.entries.close()


os.scandir = SortedScandir


def write_files(folder):
    for name in ("model.safetensors", "optimizer.safetensors"):
        with open(folder / name, "w") as file:
            for _ in range(2):
                file.write(str(step) * 25_000)
                file.flush()
                may_die()  # in the middle of a file


checkpoint.write_checkpoint(run, step, {"step": step}, write_files, keep)
'''


def write_step(run, step, moment=0, keep=2):
    """Write a checkpoint in a process that dies before its `moment`-th change of the disk; returns its exit code."""
    command = [sys.executable, "-c", WRITER, str(run), str(step), str(keep), str(moment)]
    return subprocess.run(command, check=False).returncode


def assert_whole(folder, step):
    assert read_state(folder) == {"step": step}
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (folder / name).read_text() == str(step) * SIZE


def write_plain(run, step, keep=0):
    def write_files(folder):
        for name in ("model.safetensors", "optimizer.safetensors"):
            (folder / name).write_text(str(step) * SIZE)

    return write_checkpoint(run, step, {"step": step}, write_files, keep)


def steps_of(run):
    return [step for step, _ in list_checkpoints(run)]


def test_a_checkpoint_holds_its_files_and_its_state(tmp_path):
    folder = write_plain(tmp_path, 3)
    assert folder == checkpoint_folder(tmp_path, 3) == tmp_path / "checkpoints" / "step_3"
    assert_whole(folder, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "optimizer.safetensors", STATE]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_3"]


def test_killed_at_any_moment_only_whole_checkpoints_remain(tmp_path):
    """Steps 1 and 2 are there; step 3 is written by a process that dies, and by a later one that drops step 1."""
    deaths, seen = 0, set()
    for moment in range(1, 100):
        run = tmp_path / str(moment)
        for step in (1, 2):
            write_plain(run, step)
        code = write_step(run, 3, moment)
        assert code in (0, DIES)
        steps = steps_of(run)
        assert steps in ([1, 2], [1, 2, 3], [2, 3])
        for step, folder in list_checkpoints(run):
            assert_whole(folder, step)
        assert find_checkpoint(str(run)) == (run, checkpoint_folder(run, steps[-1]))
        seen.add(tuple(steps))
        write_plain(run, 3, keep=2)  # the resumed run gets there again
        assert steps_of(run) == [2, 3]
        assert_whole(checkpoint_folder(run, 3), 3)
        if code == 0:
            break
        deaths += 1
    assert code == 0
    assert deaths >= 15
    assert seen == {(1, 2), (1, 2, 3), (2, 3)}


def test_killed_while_writing_a_step_again_the_others_remain(tmp_path):
    for moment in range(1, 100):
        run = tmp_path / str(moment)
        for step in (1, 2):
            write_plain(run, step)
        code = write_step(run, 2, moment)
        steps = steps_of(run)
        assert steps in ([1], [1, 2])
        for step, folder in list_checkpoints(run):
            assert_whole(folder, step)
        if code == 0:
            break
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("keep", "expected"), [(0, [1, 2, 9, 10, 11]), (1, [11]), (3, [9, 10, 11]), (7, [1, 2, 9, 10, 11])]
)
def test_the_newest_are_kept(tmp_path, keep, expected):
    for step in (1, 2, 9, 10, 11):
        write_plain(tmp_path, step, keep)
    assert steps_of(tmp_path) == expected
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(expected)


def test_a_failed_writer_leaves_no_checkpoint_and_says_what_is_whole(tmp_path):
    def fail(folder):
        (folder / "model.safetensors").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_plain(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"step 2 .*No space left on device.* step 1 is whole") as caught:
        write_checkpoint(tmp_path, 2, {}, fail, 0)
    assert "\n" not in str(caught.value)
    assert steps_of(tmp_path) == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_1"]  # the space is free again


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from evolpo.rl.checkpoint import write_checkpoint

def write_files(folder):
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(1_000_000)}, folder / "model.safetensors")

run = Path(sys.argv[1])
write_checkpoint(run, 1, {"step": 1}, write_files, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # what does not fit is refused, as on a full disk
write_checkpoint(run, 2, {"step": 2}, write_files, 1)
"""


def test_what_the_disk_refuses_in_the_middle_of_a_tensor_leaves_the_old_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "CheckpointError: the checkpoint of step 2 cannot be written (" in done.stderr.splitlines()[-1]
    assert "that of step 1 is whole" in done.stderr.splitlines()[-1]
    assert steps_of(tmp_path) == [1]
    assert (checkpoint_folder(tmp_path, 1) / "model.safetensors").stat().st_size > 4_000_000


def test_one_rank_that_cannot_write_is_known_to_all(tmp_path):
    told = {}

    def write(rank, gather):
        def write_files(folder):
            if rank == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            (folder / f"rank_{rank}").write_text(str(rank))

        try:
            write_checkpoint(tmp_path, 5, {"step": 5}, write_files, 1, rank=rank, gather=gather)
        except CheckpointError as error:
            told[rank] = str(error)

    run_ranks(write, 3)
    assert len(told) == 3
    assert len(set(told.values())) == 1
    assert steps_of(tmp_path) == []


def test_later_checkpoints_are_set_aside_and_stay_readable(tmp_path):
    for step in (1, 2, 3):
        write_plain(tmp_path, step)
    moved = set_later_aside(tmp_path, 1)
    assert [path.name for path in moved] == ["step_2.superseded", "step_3.superseded"]
    assert steps_of(tmp_path) == [1]
    assert_whole(moved[1], 3)
    assert set_later_aside(tmp_path, 1) == []


def test_a_link_to_a_checkpoint_leads_to_its_run(tmp_path):
    folder = write_plain(tmp_path / "run", 3)
    (tmp_path / "newest").symlink_to(folder)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "run")
    assert find_checkpoint(str(tmp_path / "newest")) == (tmp_path / "run", folder)
    assert find_checkpoint(str(tmp_path / "elsewhere")) == (tmp_path / "run", folder)


def run_ranks(write, count):
    """Run `write(rank, gather)` for each rank in a thread of its own."""
    barrier, given = threading.Barrier(count), [""] * count

    def gather_of(rank):
        def gather(own):
            given[rank] = own
            barrier.wait()
            found = list(given)
            barrier.wait()
            return found

        return gather

    threads = [threading.Thread(target=write, args=(rank, gather_of(rank))) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)


def test_ranks_write_side_by_side(tmp_path):
    def write(rank, gather):
        write_checkpoint(
            tmp_path,
            5,
            {"step": 5},
            lambda folder: (folder / f"rank_{rank}").write_text(str(rank)),
            1,
            rank=rank,
            gather=gather,
        )

    run_ranks(write, 3)
    folder = checkpoint_folder(tmp_path, 5)
    assert sorted(path.name for path in folder.iterdir()) == ["rank_0", "rank_1", "rank_2", STATE]


def test_the_files_of_folders_inside_are_kept_too(tmp_path):
    def write_files(folder):
        (folder / "optimizer").mkdir()
        (folder / "optimizer" / "rank_0").write_text("0")

    folder = write_checkpoint(tmp_path, 1, {}, write_files, 0)
    assert (folder / "optimizer" / "rank_0").read_text() == "0"


def test_a_run_gives_its_newest_checkpoint_and_a_checkpoint_itself(tmp_path):
    for step in (9, 10):
        write_plain(tmp_path, step)
    nine, ten = (checkpoint_folder(tmp_path, step) for step in (9, 10))
    assert find_checkpoint(str(tmp_path)) == (tmp_path, ten)
    assert find_checkpoint(str(nine)) == (tmp_path, nine)
    assert find_checkpoint(f"{nine}{os.sep}") == (tmp_path, nine)


@pytest.mark.parametrize("what", ["missing", "empty", "partial", "file"])
def test_without_a_whole_checkpoint_the_message_names_the_field(tmp_path, what):
    path = tmp_path / "run"
    if what == "empty":
        path.mkdir()
    elif what == "partial":
        (path / "checkpoints" / ".step_2.partial").mkdir(parents=True)
        (path / "checkpoints" / ".step_2.partial" / STATE).write_text("{}")
    elif what == "file":
        path.write_text("no folder")
    with pytest.raises(InputError) as caught:
        find_checkpoint(str(path))
    message = str(caught.value)
    assert message.startswith(f"resume: {path} holds no checkpoint; give ")
    assert "\n" not in message


def test_foreign_names_are_no_checkpoints(tmp_path):
    write_plain(tmp_path, 1)
    for name in ("step_x", "step_2.bak", "best"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / STATE).write_text("{}")
    assert steps_of(tmp_path) == [1]


def test_the_state_is_readable_json(tmp_path):
    state = {"step": 1, "position": {"epoch": 2, "offset": 17}, "text": "é"}
    folder = write_checkpoint(tmp_path, 1, state, lambda folder: None, 0)
    written = json.loads((folder / STATE).read_text())
    assert read_state(folder) == state == {name: written[name] for name in state}
