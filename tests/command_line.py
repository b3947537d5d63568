"""Runs a command in this process, as the command line would."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from evolpo.recipes import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    GlobalHydra.instance().clear()
    old = sys.argv
    sys.argv = ["evolpo", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = old
    captured = capsys.readouterr()
    return code, captured.out, captured.err
