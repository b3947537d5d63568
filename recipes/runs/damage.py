"""Whether the files that a run goes on from are what was written: its checkpoint, its configuration, its logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolpo import InputError
from evolpo.model.digests import SUM, damage, file_sum
from evolpo.model.files import DamagedError
from evolpo.recipes.runs.folder import CONFIG, START, read_start
from evolpo.rl.checkpoint import check_whole, list_checkpoints, read_state
from evolpo.rl.logs.metrics import METRICS_FILE, check_metrics
from evolpo.rl.logs.samples import SAMPLES_FILE, check_samples


def check_run(run: Path, checkpoint: Path) -> list[str]:
    """Read what a run goes on from; gives a sentence for each log that is not there and is begun anew.

    Raises:
        InputError: a file is damaged; the message names it, and says what to do without it.
    """
    check_whole(checkpoint, "resume", "resume={}".format)
    try:
        check_metrics(run / METRICS_FILE, read_state(checkpoint).get("metrics"))
        check_samples(run / SAMPLES_FILE)
    except DamagedError as error:
        raise InputError(
            f"resume: {error}; restore it from a copy, or move it away: resume={checkpoint} then goes on without it"
        ) from None
    logged = [METRICS_FILE] if "metrics" in read_state(checkpoint) else []
    return [f"{run / name} is missing: it begins anew here" for name in logged if not (run / name).exists()]


def check_model_whole(folder: Path, field: str, others: Sequence[Path]) -> None:
    """Read the model of a checkpoint, one of several.

    Args:
        folder: of the model; one that is no checkpoint must hold together.
        field: full name of the field that names it.
        others: all that were asked for.

    Raises:
        InputError: a file is damaged; the message names it, and how to ask for the rest.
    """
    if (found := damage(folder, optimizer=False)) is not None:
        rest = ",".join(str(one) for one in others if one != folder)
        raise InputError(f"{field}: {found}; restore it from a copy, or leave it out: checkpoints=[{rest}]")


def check_config(run: Path, field: str) -> None:
    """Hold the `config.yaml` of a run against its sum in `start.json`, if there is one.

    Raises:
        InputError: it is not what was written, under the name of the field that names the run.
    """
    known = read_start(run).get("config")
    if known and file_sum(run / CONFIG)[SUM] not in known:
        saved = list_checkpoints(run)
        anew = f", or start a new run from its weights: model.path={saved[-1][1]}" if saved else ""
        raise InputError(
            f"{field}: {run / CONFIG} is not what the run wrote (its checksum in {START} differs); restore it from a "
            f"copy; changes belong beside resume=, such as steps=200{anew}"
        )
