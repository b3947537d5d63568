"""The command line: `evolpo COMMAND [options]`. Every command is a hydra application.

A user's mistake is one line on stderr and exit code 2; a failed run is exit code 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import Any

from evolpo import InputError, __version__
from evolpo.recipes.commands import COMMANDS, expanded, one_line, registered


def usage() -> str:
    """What `evolpo --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name:<{width}}  {command.summary}\n  {'':<{width}}  {command.example}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"evolpo {__version__}: reinforcement-learning post-training of language models, by sentences",
            "",
            "usage: evolpo COMMAND [overrides] [--help] [--cfg job] [--multirun]",
            "",
            *lines,
            "",
            "`evolpo COMMAND --help` shows the whole configuration; any field is an override: "
            "`evolpo train steps=20 algorithm=grpo`.",
            "`evolpo train --dry-run ...` checks a configuration, its data and its model, and stops.",
        ]
    )


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """Command and what follows it.

    Raises:
        InputError: there is no such command.
    """
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    raise InputError(f"command: {' '.join(arguments[:1])!r} is none of {', '.join(COMMANDS)}; try evolpo --help")


def _named(arguments: list[str], fields: tuple[str, ...]) -> list[str]:
    """Leading arguments without a name as overrides of the command's positional fields."""
    plain = list(takewhile(lambda argument: "=" not in argument and not argument.startswith("-"), arguments))
    values = [argument.replace("'", r"\'") for argument in plain[: len(fields)]]
    overrides = [f"{field}='{value}'" for field, value in zip(fields, values, strict=False)]
    return overrides + arguments[len(overrides) :]


def run(arguments: list[str]) -> None:
    """Run one command; raises what goes wrong."""
    name, rest = split_command(arguments)
    import hydra

    command = registered(name)
    rest = [expanded(argument, command.config) for argument in _named(rest, command.positional)]
    sys.argv = [f"evolpo {name}", *rest]
    sys.path.insert(0, str(Path.cwd()))  # plugins beside the user

    @wraps(command.run)
    def job(config: Any) -> None:
        # Inside the job, so that hydra does not report a mistake in its own words first.
        with _mistakes_on_one_line():
            command.run(config)

    hydra.main(version_base=None, config_path="conf", config_name=command.config)(job)()


def main() -> None:
    """Entry point of `evolpo`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hydra hands its errors on instead of printing them
    with _mistakes_on_one_line():
        run(arguments)


@contextmanager
def _mistakes_on_one_line() -> Iterator[None]:
    """Turn what a user can mend into one line and an exit code; everything else stays a traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from evolpo.rewards.stack import RewardError

    try:
        yield
    except InputError as error:
        sys.exit(_fail(" ".join(str(error).split()), 2))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_fail(one_line(error), 2))
    except RewardError as error:
        sys.exit(_fail(str(error), 1))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; resume=FOLDER goes on (evolpo compare: the same command)", 130))


def _fail(message: str, code: int) -> int:
    print(f"evolpo: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
