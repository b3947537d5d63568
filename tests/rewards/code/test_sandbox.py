import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evolpo import InputError
from evolpo.rewards.code import launcher, sandbox, usage
from evolpo.rewards.code.sandbox import Limits, SandboxError, SandboxMissing, check_sandbox, run_sandboxed

PYTHON = Path(sys.executable).resolve()
PREFIX = PYTHON.parent.parent
# A busy machine must not decide these tests: only what should run out of time gets little of it.
PATIENT = Limits(cpu_s=20, wall_s=100)


def python(code, **settings):
    settings = {"limits": PATIENT, "readonly": [PREFIX]} | settings
    return run_sandboxed([str(PYTHON), "-S", "-s", "-c", code], **settings)


def alive_with(marker):
    """Processes of this machine that have the marker in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def test_runs_and_captures():
    result = python("import sys; print(input()[::-1]); print('oops', file=sys.stderr); sys.exit(3)", stdin=b"abc\n")
    assert (result.kind, result.exit_code, result.stdout, result.stderr) == ("finished", 3, b"cba\n", b"oops\n")
    assert 0 < result.elapsed_s < 100


def test_input_and_output_larger_than_a_pipe():
    data = os.urandom(700_000)
    result = run_sandboxed(["cat"], stdin=data, limits=PATIENT)
    assert (result.kind, result.stdout) == ("finished", data)


def test_input_that_nobody_reads():
    result = run_sandboxed(["echo", "done"], stdin=b"x" * 3_000_000, limits=PATIENT)
    assert (result.kind, result.stdout) == ("finished", b"done\n")


def test_files_are_there_and_read_only():
    code = """
        cat /code/a.txt; test -r /code/b && echo -n B
        echo x 2>/dev/null >>/code/a.txt || echo -n closed; rm -f /code/a.txt 2>/dev/null || echo -n kept"""
    result = run_sandboxed(["sh", "-c", code], files={"a.txt": b"one ", "b": b""}, limits=PATIENT)
    assert result.stdout == b"one Bclosedkept"


def test_what_is_inside():
    result = python("import os; print(sorted(os.environ), os.listdir('/tmp'), os.getcwd(), sorted(os.listdir('/')))")
    shown = result.stdout.decode()
    assert "'HOME', 'LANG'" in shown
    assert "[] /tmp" in shown
    for hidden in ("etc", "home", "work", "var", "sys"):
        assert f"'{hidden}'" not in shown.replace(f"'{PREFIX.parts[1]}'", "")


def test_proc_can_be_left_out():
    code = "import os; print(os.path.exists('/proc/self'))"
    assert python(code).stdout == b"True\n"
    assert python(code, proc=False).stdout == b"False\n"
    hog = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"  # Is looked at from outside.
    assert python(hog, proc=False, limits=Limits(cpu_s=1)).kind == "timeout"


def test_a_machine_that_forbids_proc(monkeypatch):
    monkeypatch.setattr(sandbox, "_proc_can_be_mounted", lambda bwrap: False)
    assert python("import os; print(os.path.exists('/proc/self'))").stdout == b"False\n"


def test_environment_and_descriptors_stay_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        code = "import os\nopen_ = []\nfor i in range(200):\n  try: open_.append((i, os.fstat(i).st_ino))\n"
        result = python(code + "  except OSError: pass\nprint(len(open_), 'SECRET_TOKEN' in os.environ)")
    assert result.stdout == b"3 False\n"


def test_nothing_is_written_outside(tmp_path):
    inside_tmp = tmp_path / "made"
    folders = ["/usr", "/", "/etc", "/code", "/dev", "/dev/shm", "/root", "/var/tmp", str(PREFIX), str(Path.cwd())]
    code = f"""
import contextlib
import os
for folder in {[str(tmp_path), *folders]}:
    try:
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/made", "w") as file: file.write("x")
        print(folder)
    except OSError: pass
"""
    result = python(code)
    written = result.stdout.decode().splitlines()
    assert str(tmp_path) in written
    # Its own /tmp and /dev/shm, not these.
    assert all(Path("/tmp") in Path(folder).parents or folder == "/dev/shm" for folder in written)
    assert not inside_tmp.exists()
    assert not any(Path(folder, "made").exists() for folder in folders)


def test_every_run_starts_with_an_empty_folder():
    first, second = (run_sandboxed(["sh", "-c", "ls /tmp; touch /tmp/left"], limits=PATIENT) for _ in range(2))
    assert first.stdout == second.stdout == b""


def test_folder_is_bounded():
    code = "import os\nfor i in range(9):\n  with open(str(i), 'wb') as f: f.write(bytes(1 << 20))"
    result = python(code, limits=Limits(cpu_s=20, wall_s=100, files_mib=4))
    assert result.exit_code == 1
    assert b"No space left" in result.stderr


def test_no_rights():
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    "setuid": lambda: os.setuid(0),
    "chown": lambda: os.chown("/tmp", 0, 0),
    "chroot": lambda: os.chroot("/tmp"),
    "kill init": lambda: os.kill(1, 15),
}
for name, attempt in tries.items():
    try:
        attempt()
        print(name)
    except PermissionError: pass
calls = {"user": lambda: libc.unshare(0x10000000), "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
         "ptrace": lambda: libc.ptrace(0, 0, 0, 0), "memfd": lambda: libc.memfd_create(b"x", 0),
         "clone": lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1}
for name, call in calls.items():
    if call() != -1: print(name)
print(os.getuid() != 0, os.getgroups() in ([], [os.getgid()], [65534]))
"""
    assert python(code).stdout == b"True True\n"


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = threading.Event()

        def accept():
            server.accept()
            accepted.set()

        threading.Thread(target=accept, daemon=True).start()
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5); print('connected')"
        result = python(code)
        assert result.exit_code == 1
        assert b"Error" in result.stderr
        assert not accepted.wait(0.1)
        socket.create_connection(("127.0.0.1", port)).close()  # The server was there all the time.
        assert accepted.wait(10)


@pytest.mark.parametrize(
    ("code", "limits", "kind"),
    [
        ("while True: pass", Limits(cpu_s=1, wall_s=100), "timeout"),
        ("import time; time.sleep(1000)", Limits(wall_s=1), "timeout"),
        ("import signal, time; signal.pthread_sigmask(0, range(1, 64)); time.sleep(1000)", Limits(wall_s=1), "timeout"),
        ("import os\nwhile True: os.write(1, b'x'); sum(range(10_000))", Limits(cpu_s=50, wall_s=1), "timeout"),
        (
            "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
            Limits(cpu_s=1, wall_s=100),
            "timeout",
        ),
        ("while True: print('x' * 100_000)", PATIENT, "output_limit"),
        ("import os\nwhile True: os.write(2, b'x' * 100_000)", PATIENT, "output_limit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", PATIENT, "killed"),
        ("x = bytearray(1 << 30)", PATIENT, "finished"),
        ("import mmap; mmap.mmap(-1, 1 << 30)", PATIENT, "finished"),
        ("x = []\nwhile True: x.append('y' * 1_000_000 + str(len(x)))", PATIENT, "finished"),
    ],
)
def test_hogs_end_in_time(code, limits, kind):
    started = time.perf_counter()
    result = python(code, limits=limits)
    assert result.kind == kind
    assert len(result.stdout) <= limits.output_bytes
    assert (result.exit_code is None) == (kind in ("timeout", "output_limit"))
    if kind == "finished":  # Memory ran out inside.
        assert b"MemoryError" in result.stderr or b"Cannot allocate memory" in result.stderr
    assert time.perf_counter() - started < 100


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass",
    ],
)
def test_fork_bomb_ends_by_the_deadline_and_leaves_nothing(code):
    marker = f"bomb-{os.getpid()}-{time.monotonic_ns()}"
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(python, f"'{marker}'\n{code}", limits=Limits(wall_s=3))
        most = 0
        while not run.done():
            most = max(most, len(alive_with(marker)))
            time.sleep(0.2)
    assert run.result().kind == "timeout"
    assert 10 < most <= Limits().processes + 6  # And the wrappers, which carry the command line, too.
    assert alive_with(marker) == []


def test_daemon_dies_with_the_command():
    marker = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    code = "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(1000)\nprint('parent is done')"
    result = python(f"'{marker}'\n{code}")
    assert (result.kind, result.stdout) == ("finished", b"parent is done\n")
    assert alive_with(marker) == []


def test_eight_at_once_do_not_share_limits():
    # Together they are far over the limit of 32 processes and threads.
    code = """
import threading
gate = threading.Barrier(21)
threads = [threading.Thread(target=gate.wait) for _ in range(20)]
for thread in threads: thread.start()
number = input()
gate.wait()
print(number)
"""
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: python(code, stdin=str(number).encode()), range(8)))
    assert [result.stdout for result in results] == [b"%d\n" % number for number in range(8)]


def test_no_bwrap_is_a_clear_error(monkeypatch, tmp_path):
    check_sandbox()  # A success before does not hide it.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxMissing, match=r"no bwrap on the PATH.*apt-get install bubblewrap") as error:
        run_sandboxed(["true"])
    assert isinstance(error.value, InputError)


def test_bwrap_that_is_not_allowed(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxMissing, match=r"No permissions to create new namespace.*allow unprivileged user names"):
        run_sandboxed(["true"])


def test_readonly_paths(tmp_path):
    (tmp_path / "given").write_text("x")
    (tmp_path / "other").write_text("y")
    code = f"cd {tmp_path}; ls; cat given; echo z 2>/dev/null >given || echo closed"
    assert (
        run_sandboxed(["sh", "-c", code], readonly=[tmp_path / "given"], limits=PATIENT).stdout == b"given\nxclosed\n"
    )


def test_failure_of_the_sandbox_is_not_the_commands(tmp_path):
    with pytest.raises(SandboxError, match="no_such"):
        run_sandboxed(["true"], readonly=[tmp_path / "no_such"])


def test_whoever_starts_sandboxes_is_replaced_if_it_is_killed():
    check_sandbox()
    first = launcher._current._process
    first.kill()
    first.wait()
    assert run_sandboxed(["echo", "on"], limits=PATIENT).stdout == b"on\n"
    assert launcher._current._process.pid != first.pid


def test_a_forked_process_starts_sandboxes_of_its_own():
    check_sandbox()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if run_sandboxed(["echo", "on"], limits=PATIENT).stdout == b"on\n" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert run_sandboxed(["echo", "on"], limits=PATIENT).stdout == b"on\n"


ORPHANS = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import launcher_process
launcher_process._LIBC.prctl(launcher_process._PR_SET_CHILD_SUBREAPER, 1)
outer, process = launcher_process._clone(None)
if outer == 0:
    inner = os.fork()
    if inner:
        os.write(1, b"%d" % inner)
    while True:
        time.sleep(1)
inner = int(os.read(0, 20))
os.kill(outer, signal.SIGKILL)
if sys.argv[2] == "at once":
    launcher_process._reap(process, {process: outer})
else:
    launcher_process.end_all()
assert not os.path.exists(f"/proc/{inner}"), inner
"""


@pytest.mark.parametrize("when", ["at once", "at the end"])
def test_a_sandbox_that_is_killed_while_it_is_set_up_leaves_nothing(when):
    """A process whose parent is gone and who does not know it."""
    read, write = os.pipe()
    folder = str(Path(launcher.__file__).parent)
    try:
        done = subprocess.run([sys.executable, "-c", ORPHANS, folder, when], stdin=read, stdout=write, timeout=100)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0


def test_an_old_kernel_or_a_strict_container(monkeypatch, tmp_path):
    """Without clone3 a process is forked and joins its control group by itself."""
    source = Path(launcher.__file__).with_name("launcher_process.py").read_text()
    assert "_SYS_CLONE3 = 435" in source
    (tmp_path / "launcher_process.py").write_text(source.replace("_SYS_CLONE3 = 435", "_SYS_CLONE3 = 9999"))
    monkeypatch.setattr(launcher, "__file__", str(tmp_path / "launcher.py"))
    monkeypatch.setattr(launcher, "_current", None)
    try:
        result = run_sandboxed(["sh", "-c", "read group </proc/self/cgroup; echo $group"], limits=PATIENT)
        assert result.kind == "finished"
        assert result.cpu_s > 0 or "CPU time: watching" in usage.accounting()
    finally:
        launcher._close()
