"""What a pipeline must know of each command: what a stage starts from, what it leaves, and what to say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolpo import InputError
from evolpo.model.files import read_object
from evolpo.recipes.merge import REPORT
from evolpo.recipes.runs.folder import APEXEVAL, CONFIG
from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.logs.metrics import METRICS_FILE, read_metrics


def override(name: str, path: str) -> str:
    """`name=path`, the path quoted where the grammar of overrides needs it; it holds no backslash."""
    if re.fullmatch(r"[\w.-]*(/[\w.-]+)+", path):
        return f"{name}={path}"
    escaped = path.replace("'", r"\'")
    return f"{name}='{escaped}'"


@dataclass
class StageConfig:
    """One stage: a command of evolpo in a process of its own."""

    name: str = ""
    """What other stages call it, and its folder."""
    command: str = ""
    """sft, apexeval, train, merge or evaluate."""
    experiment: str = ""
    """As in `evolpo COMMAND experiment=NAME`; empty: none."""
    model: str = ""
    """Earlier stage whose model it starts from; empty: that of its own configuration."""
    run: str = ""
    """Earlier stage whose checkpoints it reads: apexeval and merge."""
    overrides: list[str] = field(default_factory=list)
    """Further overrides of the command, such as `steps=20`."""

    def references(self) -> list[str]:
        """Names of the stages it depends on."""
        return [name for name in (self.model, self.run) if name]

    def arguments(self, model: str, run: str) -> list[str]:
        """Arguments of the command, without where it writes.

        Args:
            model: folder of the model that `self.model` has left; empty without one.
            run: folder of the run of `self.run`; empty without one.
        """
        found = [f"experiment={self.experiment}"] if self.experiment else []
        found += [override("model.path", model)] if model else []
        found += [override("run", run)] if run else []
        return found + self.overrides


@dataclass(frozen=True)
class StageKind:
    """One command as a stage."""

    takes: str
    """Which reference it may have: "model" or "run"."""
    gives: tuple[str, ...]
    """What later stages may refer to."""
    model: Callable[[Path], Path]
    """Folder of a finished run -> folder of its model, where it gives one."""
    resumable: Callable[[Path], bool]
    """Folder of an interrupted run -> whether `resume=RUN` can go on with it."""
    outcome: Callable[[Path], str]
    """Folder of a finished run -> what came out, in a few words; empty where nothing is known."""


def _last_checkpoint(run: Path) -> Path:
    return list_checkpoints(run)[-1][1]


def _has_checkpoint(run: Path) -> bool:
    return bool(list_checkpoints(run))


def _never(run: Path) -> bool:
    return False


def _sft_outcome(run: Path) -> str:
    last = read_metrics(run / METRICS_FILE)[-1]
    name, loss = ("held-out loss", last["eval/loss"]) if "eval/loss" in last else ("loss", last["loss"])
    return f"{name} not finite" if loss is None else f"{name} {loss:.4f}"


def _apexeval_outcome(run: Path) -> str:
    result = read_object(run / APEXEVAL)
    best, ranked_by = result["rows"][0], result["ranked_by"]
    figures = {name: best[name] for name in (ranked_by, "greedy") if best[name] is not None}
    return ", ".join([f"{name} {share:.1%}" for name, share in figures.items()] + [Path(result["best"]).name])


def _train_outcome(run: Path) -> str:
    summary = read_object(run / "summary.json")
    if "accuracy_after" not in summary:
        return ""
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    return f"accuracy {before:.1%} before, {after:.1%} after ({summary['problems']} problems)"


def _merge_outcome(run: Path) -> str:
    loss = read_object(run / "model" / REPORT)["merged"].get("eval/loss")
    return "" if loss is None else f"held-out loss {loss:.4f}"


def _evaluate_outcome(run: Path) -> str:
    figures = read_object(run / "evaluation.json")
    share, low, high = (figures[f"eval/accuracy{end}"] for end in ("", "_low", "_high"))
    return f"accuracy {share:.1%} ({low:.1%} to {high:.1%}, {figures['eval/problems']:.0f} problems)"


STAGE_KINDS: Mapping[str, StageKind] = {
    "sft": StageKind("model", ("model", "run"), lambda run: run / "model", _has_checkpoint, _sft_outcome),
    "apexeval": StageKind(
        "run",
        ("model",),
        lambda run: Path(read_object(run / APEXEVAL)["best"]),
        lambda run: (run / CONFIG).is_file(),
        _apexeval_outcome,
    ),
    "train": StageKind("model", ("model", "run"), _last_checkpoint, _has_checkpoint, _train_outcome),
    "merge": StageKind("run", ("model",), lambda run: run / "model", _never, _merge_outcome),
    "evaluate": StageKind("model", (), lambda run: run, _never, _evaluate_outcome),
}
"""The commands that can be stages, by name."""
OWN_FIELDS = ("name", "output_dir", "output", "resume", "experiment", "dry_run")
"""Fields of the commands that the pipeline or another field of the stage sets."""


def check_stages(stages: list[StageConfig]) -> None:
    """Check names, commands and references.

    Raises:
        InputError: a name is taken or no folder name, a command is none, or a reference leads nowhere.
    """
    earlier: dict[str, StageConfig] = {}
    for index, stage in enumerate(stages):
        where = f"stages[{index}]"
        if not stage.name or not stage.name.replace("_", "").replace("-", "").isalnum():
            raise InputError(f"{where}.name: {stage.name!r} is no name of a folder; use letters, digits, _ and -")
        if stage.name in earlier:
            raise InputError(f"{where}.name: {stage.name!r} is that of an earlier stage; give another")
        if stage.command not in STAGE_KINDS:
            raise InputError(f"{where}.command: {stage.command!r} is none of {', '.join(STAGE_KINDS)}")
        for kind in ("model", "run"):
            _check_reference(stage, kind, getattr(stage, kind), earlier, f"{where}.{kind}")
        taken = {*OWN_FIELDS, *(["model.path", "model"] if stage.model else []), *(["run"] if stage.run else [])}
        for override in stage.overrides:
            if "=" not in override or override.startswith("-"):
                raise InputError(f"{where}.overrides: {override!r} is no override; give FIELD=VALUE")
            if override.split("=", 1)[0].lstrip("+~") in taken:
                raise InputError(f"{where}.overrides: {override!r} is set by the pipeline or by a field of the stage")
        earlier[stage.name] = stage


def _check_reference(stage: StageConfig, kind: str, name: str, earlier: Mapping[str, StageConfig], where: str) -> None:
    """Whether the command takes a `kind`, and the stage of that name comes before and gives one."""
    takes = STAGE_KINDS[stage.command].takes
    if not name:
        return
    if kind != takes:
        raise InputError(f"{where}: {stage.command} takes no {kind} of an earlier stage; give `{takes}` instead")
    givers = [one.name for one in earlier.values() if kind in STAGE_KINDS[one.command].gives]
    mend = f"give one of {', '.join(givers)}" if givers else f"no earlier stage leaves a {kind}"
    if name not in earlier:
        raise InputError(f"{where}: {name!r} is no earlier stage; {mend}")
    if name not in givers:
        raise InputError(f"{where}: {name!r} ({earlier[name].command}) leaves no {kind}; {mend}")
