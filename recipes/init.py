"""`evolpo init NAME`: a recipe of one's own to begin with: fields with comments, problems, and a reward.

What it writes runs as it is, on a CPU in about a minute, with the small model that comes with evolpo.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from evolpo import InputError

PROBLEMS = 160
TEMPLATES = Path(__file__).with_name("templates")


@dataclass
class InitConfig:
    """`evolpo init`: what to begin with."""

    name: str = ""
    """Name of the recipe, and of the files: NAME.yaml, NAME_problems.jsonl, NAME_rewards.py."""

    def __post_init__(self) -> None:
        """Check that the name is one of a Python module too: the reward is imported by it."""
        self.name = self.name.removesuffix(".yaml")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name):
            raise InputError(f"name: {self.name!r} names no recipe; use letters, digits and _, e.g. evolpo init my_run")


def main(config: InitConfig) -> None:
    """Run `evolpo init` from the command line."""
    written = init(config.name, Path.cwd())
    check, run = (f"evolpo train --config {config.name}.yaml{dry}" for dry in (" --dry-run", ""))
    print("\n".join([f"wrote {path.name}" for path in written] + [f"check it: {check}", f"run it:   {run}"]))


def init(name: str, folder: Path) -> list[Path]:
    """Write the files of a recipe; returns their paths.

    Raises:
        InputError: one of them exists already, or the folder cannot be written.
    """
    contents = {
        folder / f"{name}.yaml": _filled("recipe.yaml", name),
        folder / f"{name}_problems.jsonl": "".join(json.dumps(row) + "\n" for row in problems()),
        folder / f"{name}_rewards.py": _filled("rewards.py.txt", name),
    }
    if existing := [path.name for path in contents if path.exists()]:
        raise InputError(f"name: {existing[0]} is there already; give another name, or move it away")
    try:
        for path, content in contents.items():
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"name: {folder} cannot be written ({error.strerror}); go to another folder") from None
    return list(contents)


def problems() -> list[dict[str, str]]:
    """Sums as the small model knows them; the same every time."""
    draw = random.Random(0)
    found: dict[str, dict[str, str]] = {}
    while len(found) < PROBLEMS:
        terms = [draw.randint(1, 9) for _ in range(draw.choice((2, 3, 4)))]
        text = " + ".join(map(str, terms))
        prompt = f"State the final answer to the following arithmetic problem: {text} ="
        found[text] = {"prompt": prompt, "answer": str(sum(terms))}
    return list(found.values())


def _filled(template: str, name: str) -> str:
    return (TEMPLATES / template).read_text(encoding="utf-8").replace("NAME", name)
