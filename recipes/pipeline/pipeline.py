"""`evolpo pipeline`: several commands one after the other, such as the whole way of Evo-CoT.

Each stage is a command of evolpo in a process of its own, because a process holds one vLLM engine in its life. Where
the pipeline stands is `pipeline.json`; all that the stages write lies beside it, in OUTPUTS/NAME/TIME/STAGE/TIME.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from evolpo import InputError
from evolpo.recipes.pipeline.check import check_configurations
from evolpo.recipes.pipeline.stages import STAGE_KINDS, StageConfig, StageKind, check_stages, override
from evolpo.recipes.pipeline.state import STATE, StageRecord, locked, read_records, run_names, write_records
from evolpo.recipes.runs.folder import CONFIG, check_name, new_run_folder
from evolpo.recipes.runs.resume import saved_config
from evolpo.rl.logs.files import replacing


@dataclass
class PipelineConfig:
    """`evolpo pipeline`: stages, one after the other."""

    name: str = "pipeline"
    """Name of the pipeline: its folder is `output_dir/name/TIME`."""
    output_dir: str = "outputs"
    """Folder of all runs."""
    stages: list[StageConfig] = field(default_factory=list)
    """The stages, in their order."""
    only: list[str] = field(default_factory=list)
    """Stages to run alone, again if they are finished; empty: all that are not finished."""
    resume: str = ""
    """Folder of a pipeline to go on with; its stages are those it was started with unless others are given."""

    def __post_init__(self) -> None:
        """Check the stages against each other."""
        check_name(self.name)
        check_stages(self.stages)
        if not self.stages and not self.resume:
            raise InputError("stages: is empty; give experiment=NAME, e.g. experiment=evo_cot_nano, or resume=FOLDER")
        names = [stage.name for stage in self.stages]
        unknown = [name for name in self.only if names and name not in names]
        if unknown:
            raise InputError(f"only: {unknown[0]!r} is no stage; give some of {', '.join(names)}")


def main(config: PipelineConfig) -> None:
    """Run `evolpo pipeline` from the command line: a table of its stages at the end."""
    folder = pipeline(config)
    Console(markup=False, highlight=False).print(closing_table(folder, config.stages))
    print(folder / STATE)


def effective_pipeline(config: Any) -> PipelineConfig:
    """The configuration as checked objects; `resume=PIPELINE` without stages takes those of the pipeline.

    Raises:
        InputError: `resume` is no pipeline, or a field is wrong.
    """
    given: Any = OmegaConf.to_object(config)
    if not given.resume:
        assert isinstance(given, PipelineConfig)
        return given
    saved: Any = OmegaConf.to_object(saved_config(Path(given.resume), PipelineConfig, "resume"))
    return PipelineConfig(saved.name, saved.output_dir, given.stages or saved.stages, given.only, given.resume)


def pipeline(config: PipelineConfig) -> Path:
    """Run the stages that are to be run and return the pipeline's folder.

    A finished stage whose arguments are the same as before is left out. What it starts from is one of its arguments, so
    that a stage which has run again takes with it all that depend on it.

    Raises:
        InputError: the configuration of a stage is wrong, or what a chosen stage depends on is not finished.
        SystemExit: a stage failed, with its exit code.
    """
    records = read_records(Path(config.resume)) if config.resume else {}
    _check_only(config, records)
    _say(f"checking {len(config.stages)} stages")
    check_configurations(config.stages)
    folder = Path(config.resume) if config.resume else new_run_folder(config.output_dir, config.name)
    with locked(folder) as lock:
        with replacing(folder / CONFIG) as temporary:
            OmegaConf.save(OmegaConf.structured(replace(config, resume="", only=[])), temporary)
        for number, stage in enumerate(config.stages, start=1):
            if not config.only or stage.name in config.only:
                title = f"[{number}/{len(config.stages)}] {stage.name}"
                _run_stage(folder, stage, records, lock, title, again=stage.name in config.only)
    return folder


def _check_only(config: PipelineConfig, records: Mapping[str, StageRecord]) -> None:
    """Whether all that the chosen stages depend on is finished or chosen too."""
    for stage in config.stages:
        for name in stage.references() if stage.name in config.only else []:
            if name not in config.only and (name not in records or records[name].status != "finished"):
                mend = "give resume=PIPELINE of one in which it is" if not config.resume else f"add {name} to only"
                raise InputError(f"only: {stage.name} needs {name}, which is not finished; {mend}")


def _run_stage(
    folder: Path, stage: StageConfig, records: dict[str, StageRecord], lock: int, title: str, again: bool
) -> None:
    """Run one stage, or the rest of it, unless it is finished, and note how it ended."""
    kind = STAGE_KINDS[stage.command]
    model = records[stage.model].model if stage.model else ""
    source = records[stage.run].run if stage.run else ""
    arguments = stage.arguments(model, source)
    attempts = run_names(folder / stage.name)
    record = records.get(stage.name)
    run: Path | None = None
    if record is not None and record.arguments == arguments:
        if record.status != "finished":
            run = _interrupted_run(folder / stage.name, kind, [one for one in attempts if one not in record.earlier])
        elif not again and (folder / record.run).is_dir() and (folder / record.model).is_dir():
            _say(f"{title}: is finished, {folder / record.run}")
            return
    if record is None or run is None:
        record = StageRecord("running", arguments, earlier=attempts)
        parts = (str(folder / part) if part else "" for part in (model, source))
        command = [stage.command, *stage.arguments(*parts), *_place(folder, stage)]
    else:
        record = replace(record, status="running")
        command = [stage.command, override("resume", str(run))]
    _note(folder, records, stage.name, record)
    _say(f"{title}: {shlex.join(['evolpo', *command])}")
    start = time.monotonic()
    code = _call(command, lock)
    seconds = record.seconds + time.monotonic() - start
    if code:
        _note(folder, records, stage.name, replace(record, status="failed", seconds=seconds))
        go_on = shlex.join(["evolpo", "pipeline", override("resume", str(folder))])
        _say(f"evolpo: stage {stage.name} ended with exit code {code}; {go_on} goes on from there")
        raise SystemExit(code)
    run = run or folder / stage.name / run_names(folder / stage.name)[-1]
    paths = (os.path.relpath(run, folder), os.path.relpath(kind.model(run), folder) if "model" in kind.gives else "")
    _note(folder, records, stage.name, StageRecord("finished", arguments, record.earlier, *paths, seconds))


def _note(folder: Path, records: dict[str, StageRecord], name: str, record: StageRecord) -> None:
    records[name] = record
    write_records(folder, records)


def _interrupted_run(folder: Path, kind: StageKind, names: Sequence[str]) -> Path | None:
    """The newest of these runs of a stage, if it can be resumed."""
    run = folder / names[-1] if names else None
    return run if run is not None and kind.resumable(run) else None


def _place(folder: Path, stage: StageConfig) -> list[str]:
    """Arguments that say where a stage writes: `FOLDER/STAGE/TIME`, which most commands make themselves."""
    if stage.command == "merge":
        return [override("output", str(new_run_folder(str(folder), stage.name) / "model"))]
    return [override("output_dir", str(folder)), f"name={stage.name}"]


def _call(command: Sequence[str], lock: int) -> int:
    """Run a command of evolpo in a process of its own, on this terminal; returns its exit code.

    Ctrl-C reaches that process too: the pipeline waits for its end. SIGTERM is handed on.
    """
    child = subprocess.Popen([sys.executable, "-P", "-m", "evolpo.recipes.cli", *command], pass_fds=(lock,))
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code  # as a shell reports a signal


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def closing_table(folder: Path, stages: Sequence[StageConfig]) -> Table:
    """What each stage took and what came out."""
    records = read_records(folder)
    table = Table("stage", "command", Column("seconds", justify="right"), "outcome")
    for stage in stages:
        record = records.get(stage.name)
        if record is None or record.status != "finished":
            table.add_row(stage.name, stage.command, "", record.status if record else "not run")
        else:
            outcome = STAGE_KINDS[stage.command].outcome(folder / record.run)
            table.add_row(stage.name, stage.command, f"{record.seconds:.1f}", outcome)
    return table
