"""The command line: `evolpo COMMAND [options]`. Every command is a hydra application.

A user's mistake is one line on stderr and exit code 2; a failed run is exit code 1.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from evolpo import InputError, __version__
from evolpo.recipes.commands import COMMANDS, one_line, registered

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


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
            "usage: evolpo COMMAND [overrides] [--config FILE] [--help] [--cfg job] [--multirun]",
            "",
            *lines,
            "",
            "`evolpo COMMAND --help` shows the whole configuration; any field is an override: "
            "`evolpo train steps=20 algorithm=grpo`.",
            "`--config FILE` takes fields from a YAML file; `evolpo train --dry-run ...` checks all of a run.",
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


def run(arguments: list[str]) -> None:
    """Run one command; raises what goes wrong."""
    name, rest = split_command(arguments)
    import hydra

    from evolpo.rewards.beside import make_importable

    command = registered(name)
    sys.argv = [f"evolpo {name}", *command.words(rest)]

    @wraps(command.run)
    def job(config: Any) -> None:
        # Inside the job, so that hydra does not report a mistake in its own words first.
        with _mistakes_on_one_line():
            # Plugins beside the user; only now, as hydra runs every `hydra_plugins` that it finds when it starts.
            make_importable(Path.cwd())
            command.run(config)

    hydra.main(version_base=None, config_path="conf", config_name=command.config)(job)()


def quiet_libraries() -> None:
    """Switch off PyTorch's notes on the machine, and progress bars of other libraries where stderr is no terminal.

    They read these variables when they are first imported, here and in the processes that this one starts.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def main() -> None:
    """Entry point of `evolpo`."""
    quiet_libraries()
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
    from safetensors import SafetensorError

    from evolpo.recipes.runs.stop import INTERRUPTED, Terminated, leave
    from evolpo.rewards.stack import RewardError
    from evolpo.rl.checkpoint import CheckpointError

    first = os.environ.get("RANK", "0") == "0"  # what all ranks raise, one of them says
    try:
        yield
    except InputError as error:
        sys.exit(_fail(" ".join(str(error).split()), 2))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_fail(one_line(error), 2))
    except RewardError as error:
        sys.exit(_fail(str(error), 1))
    except CheckpointError as error:
        sys.exit(_fail(str(error), 1) if first else 1)
    except (OSError, SafetensorError) as error:
        if (message := _full_disk(error)) is not None:
            sys.exit(_fail(message, 1))
        if (message := _no_place(error)) is None:
            raise
        sys.exit(_fail(message, 2))
    except MemoryError:
        sys.exit(_fail("memory is not enough for what the configuration asks; lower its sizes", 2))
    except Terminated as end:
        leave(str(end))
    except KeyboardInterrupt:
        leave("interrupted; resume=FOLDER goes on (evolpo compare: the same command)", INTERRUPTED)


def _full_disk(error: Exception) -> str | None:
    """What to say of an error of a full disk; None of another one."""
    full = isinstance(error, OSError) and error.errno in _FULL
    if not full and not any(os.strerror(one) in str(error) for one in _FULL):
        return None
    name = getattr(error, "filename", None)
    place = f" ({name})" if name else ""
    what = "a file grew beyond its limit" if getattr(error, "errno", None) == errno.EFBIG else "the disk is full"
    return f"{what}{place}; make room, then resume=FOLDER goes on from the newest checkpoint"


def _no_place(error: Exception) -> str | None:
    """What to say of a place where nothing can be read or written; None of another error."""
    if not isinstance(error, OSError) or error.errno not in _NO_PLACE or error.filename is None:
        return None
    return f"{error.filename} cannot be used ({error.strerror}); give another folder, or mend this one"


def _fail(message: str, code: int) -> int:
    print(f"evolpo: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
