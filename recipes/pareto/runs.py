"""Finds and reads the runs whose cost of reasoning is compared, and refuses those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.files import DamagedError
from evolpo.recipes.runs.evaluation import Judged, judged_files, read_judged
from evolpo.recipes.runs.folder import CONFIG, read_config


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its verdicts."""

    method: str
    seed: int
    folder: Path
    evaluations: Mapping[int, Sequence[Judged]]
    """Verdicts by step, first to last; those of `evolpo evaluate` are at step 0."""
    config: Mapping[str, Any]
    """What `config.yaml` says."""

    @property
    def final(self) -> Sequence[Judged]:
        """The last verdicts."""
        return self.evaluations[max(self.evaluations)]


def find_runs(runs: Mapping[str, Sequence[str]]) -> list[tuple[str, Path]]:
    """(method, folder) of every run, methods in their order.

    Args:
        runs: folders by method; `*`, `?` and `**` stand for what they do in a shell.

    Raises:
        InputError: a pattern matches no folder, or there are fewer than two runs in all.
    """
    found: list[tuple[str, Path]] = []
    for method, patterns in runs.items():
        for pattern in patterns:
            paths = sorted(glob(pattern, recursive=True))  # noqa: PTH207, Path.glob takes no absolute pattern
            folders = [Path(path) for path in paths if Path(path).is_dir()]
            if not folders:
                raise InputError(f"runs.{method}: {pattern} is no folder; give folders of runs, OUTPUTS/NAME/TIME")
            found += [(method, folder) for folder in folders if (method, folder) not in found]
    if len(found) < 2:
        raise InputError(f"runs: {len(found)} run{'s' * (len(found) != 1)} cannot be compared; give two or more")
    return found


def read_run(method: str, folder: Path) -> EvaluatedRun:
    """Read a run of `evolpo train` or `evolpo evaluate`.

    Raises:
        InputError: it has no configuration, no verdicts, damaged ones, or has not come to its end.
    """
    where = f"runs.{method}: {folder}"
    config = read_config(folder)
    if "seed" not in config:
        raise InputError(f"{where} has no {CONFIG} of a run; give folders of runs, OUTPUTS/NAME/TIME")
    files = judged_files(folder)
    if (folder / "judged.jsonl").is_file():
        files = {0: folder / "judged.jsonl"}
    if not files:
        raise InputError(f"{where} has no evaluations; give runs with held-out problems, data.heldout_size")
    if max(files) < config.get("steps", 0):
        raise InputError(
            f"{where} has verdicts to step {max(files)} of {config['steps']}; go on with evolpo train resume={folder}, "
            f"or leave the run out"
        )
    evaluations = {step: _read(where, files[step]) for step in files}
    return EvaluatedRun(method, config["seed"], folder, evaluations, config)


def _read(where: str, path: Path) -> list[Judged]:
    try:
        judged = read_judged(path)
    except DamagedError:
        raise InputError(f"{where}: {path.name} is damaged; evaluate again, or leave the run out") from None
    if not judged:
        raise InputError(f"{where}: {path.name} has no verdicts; evaluate again, or leave the run out")
    return judged


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raise InputError unless all runs ended on the same problems, and those of a method at one step, a seed each."""
    first = runs[0]
    problems = {(one.prompt_id, one.difficulty) for one in first.final}
    by_seed: dict[tuple[str, int], EvaluatedRun] = {}
    by_method: dict[str, EvaluatedRun] = {}
    for run in runs:
        other = by_seed.setdefault((run.method, run.seed), run)
        if other is not run:
            raise InputError(
                f"runs.{run.method}: {other.folder} and {run.folder} are both of seed {run.seed}; keep one"
            )
        other = by_method.setdefault(run.method, run)
        if max(other.evaluations) != max(run.evaluations):
            raise InputError(
                f"runs.{run.method}: {other.folder} ends at step {max(other.evaluations)}, {run.folder} at "
                f"{max(run.evaluations)}; give them names of their own, as two methods"
            )
        different = len(problems ^ {(one.prompt_id, one.difficulty) for one in run.final})
        if different:
            raise InputError(
                f"runs.{run.method}: {run.folder} and {first.folder} were evaluated on different problems ({different} "
                f"are in one only); give all runs the same data and the same data.seed"
            )
