"""Runs a command in this process, as the command line would."""

import logging
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from evolpo.recipes import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    GlobalHydra.instance().clear()
    old, level = sys.argv, logging.root.level
    sys.argv = ["evolpo", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = old
        logging.root.setLevel(level)
        for name in logging.root.manager.loggerDict:  # hydra has switched off all that there were
            logging.getLogger(name).disabled = False
    captured = capsys.readouterr()
    return code, captured.out, captured.err
