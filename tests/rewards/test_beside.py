"""Files beside the user: found, but never in place of Python's own modules, and of packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolpo.rewards.beside import make_importable

REWARD = "from evolpo.rewards import sample_reward\n\n\n@sample_reward\ndef kind(sample):\n    return 0.5\n"
LINE = '{"prompt": "q", "response": "a", "answer": "1"}\n'
OWN_NAMES = ("tokenize", "code", "types", "random", "queue", "select", "numbers", "statistics")


def score(folder, use):
    command = [str(Path(sys.executable).with_name("evolpo")), "score", use, "r.jsonl"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=dict(os.environ))


@pytest.mark.timeout(300)
def test_a_file_named_like_a_module_of_python_breaks_nothing(tmp_path):
    (tmp_path / "r.jsonl").write_text(LINE)
    for name in OWN_NAMES:
        (tmp_path / f"{name}.py").write_text(REWARD)
    (tmp_path / "mine.py").write_text(REWARD)
    done = score(tmp_path, "mine:kind")
    assert done.returncode == 0, done.stderr
    assert "0.5000" in done.stdout
    done = score(tmp_path, "code:kind")
    assert done.returncode == 2
    assert "code has no attribute 'kind'; code is a module of Python itself, give your file another name" in done.stderr


def test_a_file_named_like_a_package_is_not_run(tmp_path):
    """A folder that somebody got with some data."""
    (tmp_path / "r.jsonl").write_text(LINE)
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "hydra_plugins").mkdir()
    files = [f"{name}.py" for name in ("numpy", "psutil", "pyseccomp", "yaml", "sympy", "omegaconf", "sitecustomize")]
    for name in (*files, "hydra_plugins/__init__.py", "hydra_plugins/more.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()\n")
    for use in ("mine:kind", "math"):
        done = score(tmp_path, use)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()
    done = score(tmp_path, "yaml:kind")
    assert done.returncode == 2
    assert "yaml has no attribute 'kind'; yaml is an installed package, give your file another name" in done.stderr


def test_a_folder_stands_behind_all(monkeypatch, tmp_path):
    library = str(Path(os.__file__).parent)
    packages = f"{library}/site-packages"
    monkeypatch.setattr(sys, "path", ["", "/given", library, str(tmp_path), packages, "/behind"])
    make_importable(tmp_path)
    assert sys.path == ["/given", library, packages, "/behind", str(tmp_path)]
