"""From `module:attribute` to the object; whatever a plugin's module does when it is imported, a mistake is one line."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, TextIO

from evolpo.rewards.beside import make_importable
from evolpo.rewards.service.process import START_TIMEOUT_S
from evolpo.rewards.service.workers import describe

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_TRIAL = """\
import importlib, os, sys
sys.path[:], name, end = {path!r}, {name!r}, b"imported"
try:
    importlib.import_module(name)
except KeyboardInterrupt:
    end = b"interrupted"
except BaseException:
    pass
os.write({descriptor}, end)
os._exit(0)
"""


def import_attribute(path: str) -> Any:
    """What `module:attribute` names; the current directory is importable.

    Raises:
        ValueError: it cannot be imported, in one line.
    """
    check_path(path)
    module_name, _, attributes = path.partition(":")
    here = str(Path.cwd())
    make_importable(here)
    found = _import_module(module_name, here)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            hint = _similar(attribute, found) or _of_others(module_name)
            raise ValueError(f"{module_name} has no attribute {attributes!r}{hint}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module's or a class's own __getattr__
            raise ValueError(f"{path} cannot be looked up: {describe(error)}") from error
    return found


def check_path(path: Any) -> None:
    """Raise ValueError, with what may have been meant, unless it is `module:attribute`."""
    module, colon, attributes = path.partition(":") if isinstance(path, str) else ("", "", "")
    if colon and not module.endswith(".py") and _DOTTED.fullmatch(module) and _DOTTED.fullmatch(attributes):
        return
    name = re.sub(r"\.py$", "", module.strip().removeprefix("./")).strip("/").replace("/", ".")
    if not colon and not module.endswith(".py"):
        name, _, attributes = name.rpartition(".")
    meant = (name, attributes.strip() or "FUNCTION")
    likely = all(map(_DOTTED.fullmatch, meant)) and not module.startswith(("/", "..", "~"))
    hint = f"write {':'.join(meant)}" if likely else "write it as in my_rewards:polite, for `polite` in my_rewards.py"
    folder = "; the module's folder must be the current one, or on PYTHONPATH" if "/" in module else ""
    raise ValueError(f"{path!r} is no module:attribute; {hint}{folder}")


def _similar(attribute: str, found: Any) -> str:
    try:
        near = difflib.get_close_matches(attribute, dir(found), n=1)
    except Exception:  # noqa: BLE001 - __dir__ may be the plugin's
        near = []
    return f"; did you mean {near[0]!r}?" if near else ""


def _of_others(name: str) -> str:
    """Where a module is from that has the name which a file of the user may have, too."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"; {top} is a module of Python itself, give your file another name"
    if top != "evolpo" and _installed(name) and Path(f"{top}.py").exists():
        return f"; {top} is an installed package, give your file another name"
    return ""


def _import_module(name: str, here: str) -> Any:
    if name not in sys.modules and not _installed(name):
        _try_elsewhere(name)
    held_back = _HeldBack(sys.stderr)
    try:
        # A module that parses the command line prints its usage before it exits; the mistake is to be one line.
        with contextlib.redirect_stderr(held_back):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {error.name!r} in {here} or among the installed") from error
        raise ValueError(f"{name} cannot be imported: {error}") from error
    except SystemExit as error:
        said = f" ({held_back.last_line()})" if held_back.last_line() else ""
        raise ValueError(f"{name} ends the program when it is imported{said}; do that in a function") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{name} cannot be imported: {describe(error)}") from error
    held_back.release()
    return module


def _installed(name: str) -> bool:
    """Whether a module is Python's, evolpo's or an installed package's: these are known to let themselves be imported.

    Some of them take many seconds, which a trial would double.
    """
    top = name.partition(".")[0]
    if top == "evolpo" or top in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return False
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(place.startswith(folder) for place in places for folder in folders)


def _try_elsewhere(name: str) -> None:
    """Import a module in a process of its own first: `os._exit` or a crash would end this one without a word.

    Raises:
        ValueError: the process ended, hung, or was interrupted by the module itself.
    """
    with tempfile.TemporaryFile() as said:
        code = _TRIAL.format(path=list(sys.path), name=name, descriptor=said.fileno())
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        # In a session of its own, so that Ctrl-C reaches this process alone.
        trial = subprocess.Popen(
            [sys.executable, "-P", "-c", code], pass_fds=(said.fileno(),), start_new_session=True, **quiet
        )
        try:
            code_of_end = trial.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{name} was not imported within {START_TIMEOUT_S:g} s") from None
        finally:
            trial.kill()
            trial.wait()
        said.seek(0)
        end = said.read()
    if end == b"interrupted":
        raise ValueError(f"{name} cannot be imported: it raises KeyboardInterrupt; do that in a function")
    if end != b"imported":
        how = f"signal {-code_of_end}" if code_of_end < 0 else f"exit code {code_of_end}"
        raise ValueError(f"{name} ends the program when it is imported ({how}); do that in a function")


class _HeldBack(io.TextIOBase):
    """A stream that keeps what is written until it is released, and hands it on from then on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held: list[str] | None = []

    def write(self, text: str) -> int:
        if self._held is None:
            return self._stream.write(text)
        self._held.append(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def last_line(self) -> str:
        """The last line that is kept."""
        return "".join(self._held or []).strip().rpartition("\n")[2]

    def release(self) -> None:
        """Write what was kept."""
        held, self._held = self._held or [], None
        self._stream.write("".join(held))
