"""`evolpo pareto`: accuracy of methods against the tokens they spend, as a page, a picture and rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from evolpo import InputError
from evolpo.recipes.pareto.page import change, share, tokens, write_page, write_picture
from evolpo.recipes.pareto.runs import check_comparable, find_runs, read_run
from evolpo.recipes.pareto.statistics import RESAMPLES
from evolpo.recipes.pareto.study import Study, study_of
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress


@dataclass
class ParetoConfig:
    """`evolpo pareto`: what methods reach and what it costs in tokens."""

    runs: dict[str, list[str]] = field(default_factory=dict)
    """Folders of runs by method; `*` stands for anything. Of `evolpo train`, or of `evolpo evaluate`."""
    baseline: str = ""
    """Method the others are measured against; empty: the first of `runs`."""
    output: str = ""
    """Folder that `pareto.html`, `pareto.png`, `pareto.json` and `pareto_summary.json` are written into."""

    def __post_init__(self) -> None:
        """Check what can be checked without reading a run."""
        for method, patterns in self.runs.items():
            if not patterns:
                raise InputError(f"runs.{method}: names no folder; give at least one, or leave the method out")
        if self.baseline and self.baseline not in self.runs:
            raise InputError(f"baseline: {self.baseline!r} is none of {', '.join(self.runs) or 'runs, which is empty'}")
        if not self.output:
            raise InputError("output: is empty; give the folder of the report")


def main(config: ParetoConfig) -> None:
    """Run `evolpo pareto` from the command line."""
    print(pareto(config))


def pareto(config: ParetoConfig) -> str:
    """Write the report; return its tables in Markdown and its path.

    Raises:
        InputError: the runs cannot be compared.
    """
    found = find_runs(config.runs)
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output: {output} cannot be made ({error.strerror}); give another folder") from None
    with Progress(len(found), LoggerConfig()) as progress:
        runs = []
        for method, folder in found:
            progress.note(f"reading {method}: {folder}")
            runs.append(read_run(method, folder))
        check_comparable(runs)
        progress.note("intervals over seeds and problems")
        study = study_of(runs, config.baseline or runs[0].method, progress.step)
        progress.note("drawing")
        last = {(run.method, run.seed): max(run.evaluations) for run in runs}
        rows = [
            {"method": c.method, "seed": c.seed, "level": c.level}
            | {"accuracy": c.accuracy.value, "tokens": c.tokens.value, "n": c.n}
            for c in study.checkpoints
            if c.step == last[c.method, c.seed]
        ]
        folders = [{"method": run.method, "seed": run.seed, "folder": str(run.folder)} for run in runs]
        write_json(output / "pareto.json", rows)
        write_json(output / "pareto_summary.json", asdict(study) | {"resamples": RESAMPLES, "runs": folders})
        write_picture(study, output / "pareto.png")
        page = write_page(study, output / "pareto.html")
    return f"{markdown(study)}\n{page}"


def markdown(study: Study) -> str:
    """The final figures as two tables: all problems, and accuracy and tokens by level."""
    everything, *levels = study.levels
    lines = [
        f"| method | seeds | accuracy | tokens | tokens saved against {study.baseline} | accuracy, points | front |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, one in everything.methods.items():
        cells = [method, str(len(study.seeds[method])), share(one.accuracy), tokens(one.tokens), share(one.saved)]
        cells += [change(one.gain), "yes" if method in everything.front else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    if levels:
        lines += ["", f"| method | {' | '.join(f'{level.name} ({level.problems})' for level in levels)} |"]
        lines += ["|---" * (len(levels) + 1) + "|"]
    for method in study.seeds if levels else ():
        parts = [level.methods[method] for level in levels]
        cells = [f"{one.accuracy.value:.1%}, {one.tokens.value:.1f} tokens" for one in parts]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)
