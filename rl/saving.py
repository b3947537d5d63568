"""The checkpoints of a run, written while it waits or in a thread beside the next steps.

What the thread writes was copied to the host before the next step begins; a step never changes it. The thread does all
that follows, up to the new name: so a checkpoint is there as soon as the disk has it, whatever becomes of the steps
meanwhile. Its ranks meet in a process group of their own. Only what other threads may not touch meanwhile, the
tokenizer, and what is small is written at once. There is one such thread at most: the next checkpoint waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from evolpo.model.shards import Do, Work
from evolpo.rl.checkpoint import Writing, write_checkpoint
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.distributed import Beside


class Saver:
    """Writes the checkpoints of a run as `trainer.save_background` and `trainer.keep_checkpoints` say."""

    def __init__(self, run: Path, trainer: Trainer, note: Callable[[str], None]) -> None:
        """Nothing is written yet.

        Args:
            run: its folder.
            trainer: whose weights and states are saved.
            note: is told of a checkpoint that is lost while something else ends the run.
        """
        self._run, self._trainer, self._note = run, trainer, note
        self._thread: Thread | None = None
        self._failure: BaseException | None = None
        self._beside: Beside | None = None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a finished step, or begin to; every rank calls it.

        Args:
            step: that is finished.
            state: what goes into `state.json`.

        Raises:
            CheckpointError: the disk is full or refuses; also of the checkpoint before, if that was not known yet.
        """
        self.wait()
        trainer, keep = self._trainer, self._trainer.config.keep_checkpoints
        rank = trainer.rank

        def files(folder: Path, do: Do | None = None) -> None:
            trainer.save_trained(folder, do)
            trainer.save_optimizer(folder, do)

        if not trainer.config.save_background:
            write_checkpoint(self._run, step, state, files, keep, rank=rank, gather=trainer.gather)
            return
        if self._beside is None:
            self._beside = Beside(trainer.world)
        works: deque[Work] = deque()
        writing = Writing(self._run, step, rank, trainer.gather)
        writing.begin()
        writing.write(lambda folder: files(folder, works.append))
        beside = replace(writing, gather=self._beside.gather)
        self._thread = Thread(target=self._finish, args=(beside, works, state, keep), name="checkpoint")
        self._thread.start()

    def _finish(self, writing: Writing, works: deque[Work], state: Mapping[str, Any], keep: int) -> None:
        """What the thread does."""

        def files(folder: Path) -> None:
            while works:
                works.popleft()()  # what is written is no longer held

        try:
            writing.finish(state, keep, writing.write(files))
        except BaseException as error:  # noqa: BLE001 -- raised again where the run waits for it
            works.clear()
            self._failure = error

    def check(self) -> None:
        """After every step, on every rank: has the checkpoint that is being written failed?

        Raises:
            CheckpointError: on all ranks, as soon as one of them knows.
        """
        if self._thread is not None and self._trainer.max_over_ranks(float(self._failure is not None)) > 0:
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is there; every rank calls it.

        Raises:
            CheckpointError: the disk is full or refuses.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, also where a step has failed or Ctrl-C ends the run: the checkpoint before it is none of its fault."""
        if error is None:
            self.wait()
            return
        try:
            self.wait()
        except Exception as failure:  # noqa: BLE001 -- what ends the run is said by its own name
            self._note(f"warning: {failure}")
