"""Programs in the sandbox, whole rewards: honest ones that use what languages offer, and ones that want more."""

# ruff: noqa: E501 - programs in strings
import asyncio
import os
import subprocess
import sys
import time

import pytest

from evolpo.rewards.code import sandbox, usage
from evolpo.rewards.code.reward import CodeTests
from evolpo.rewards.testing import make_sample


def fenced(program, language):
    return f"```{language}\n{program}\n```"


def score_all(programs, tests, language="python", **options):
    samples = [make_sample(text=fenced(program, language), metadata={"tests": tests}) for program in programs]
    return asyncio.run(CodeTests(language=language, **{"timeout_s": 20.0, **options}).score(samples))


@pytest.fixture(params=["as here", "process tree"])
def accounting(request, monkeypatch):
    """What this machine has, and what every machine has."""
    if request.param == "process tree":
        monkeypatch.setattr(sandbox, "control_group", lambda memory_limit: None)


# -- honest programs ----------------------------------------------------------------------------------------------

HONEST = {
    "input until the end": (
        "python",
        "total = 0\nwhile True:\n    try: total += int(input())\n    except EOFError: break\nprint(total)",
        "1\r\n2\r\n3",
        "6",
    ),
    "bytes": ("python", "import sys; print(sum(map(int, sys.stdin.buffer.read().split())))", "1 2\n3\n", "6"),
    "iterated standard input": ("python", "import sys\nprint(sum(int(line) for line in sys.stdin))", "1\n2\n", "3"),
    "descriptor 0": ("python", "import os\nprint(os.read(0, 100).decode()[::-1])", "abc", "cba"),
    "open(0)": ("python", "print(open(0).read().upper())", "abc", "ABC"),
    "/dev/stdin": ("python", "print(open('/dev/stdin').read().upper())", "abc", "ABC"),
    "/dev/stdin in parts": ("python", "f = open('/dev/stdin')\nprint(f.readline(), f.read(), sep='')", "a\nb", "a\nb"),
    "/proc/self/fd/0": ("python", "print(open('/proc/self/fd/0').read())", "abc", "abc"),
    "/dev/stdout": ("python", "open('/dev/stdout', 'w').write(input())", "abc", "abc"),
    "/dev/stderr": ("python", "open('/dev/stderr', 'w').write('noise')\nprint(input())", "abc", "abc"),
    "/dev/null": (
        "python",
        "print('x', file=open('/dev/null', 'w')); print(open('/dev/null').read() == '')",
        "",
        "True",
    ),
    "random bytes": (
        "python",
        "import os, random, secrets; print(len(os.urandom(9)), len(secrets.token_hex(3)))",
        "",
        "9 6",
    ),
    "unicode": (
        "python",
        "s = input(); print(s, len(s), 'ÄÖ', '日本', chr(0x1F600))",
        "žluť",
        "žluť 4 ÄÖ 日本 \U0001f600",
    ),
    "recursion": (
        "python",
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(50_000))",
        "",
        "50000",
    ),
    "recursion in a thread with a large stack": (
        "python",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(100_000)))\n"
        "t.start(); t.join()",
        "",
        "100000",
    ),
    "threads": (
        "python",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(20) as pool:\n"
        "    print(sum(pool.map(lambda n: n * n, range(100))))",
        "",
        "328350",
    ),
    "asyncio": (
        "python",
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01)\n    return n\n"
        "async def main(): return sum(await asyncio.gather(*map(f, range(10))))\nprint(asyncio.run(main()))",
        "",
        "45",
    ),
    "asyncio with a process": (
        "python",
        "import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)\n"
        "    return (await p.communicate())[0].decode()\nprint(asyncio.run(main()))",
        "",
        "hi",
    ),
    "a process pool": (
        "python",
        "from multiprocessing import Pool\ndef f(n): return n * n\n"
        "if __name__ == '__main__':\n    with Pool(4) as pool: print(sum(pool.map(f, range(100))))",
        "",
        "328350",
    ),
    "a process pool of futures": (
        "python",
        "from concurrent.futures import ProcessPoolExecutor\ndef f(n): return n * n\n"
        "if __name__ == '__main__':\n    with ProcessPoolExecutor(3) as pool: print(sum(pool.map(f, range(20))))",
        "",
        "2470",
    ),
    "spawned processes": (
        "python",
        "import multiprocessing\ndef f(queue): queue.put(7)\nif __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n    queue = context.Queue()\n"
        "    p = context.Process(target=f, args=(queue,)); p.start(); print(queue.get()); p.join()",
        "",
        "7",
    ),
    "shared memory": (
        "python",
        "from multiprocessing import Process\nfrom multiprocessing.shared_memory import SharedMemory\n"
        "def f(name):\n    m = SharedMemory(name)\n    m.buf[0] = 42\n    m.close()\n"
        "if __name__ == '__main__':\n    m = SharedMemory(create=True, size=1 << 20)\n"
        "    p = Process(target=f, args=(m.name,)); p.start(); p.join()\n    print(m.buf[0]); m.close(); m.unlink()",
        "",
        "42",
    ),
    "shared values and locks": (
        "python",
        "from multiprocessing import Lock, Process, Value, Array\ndef f(v, a, lock):\n    for _ in range(50):\n"
        "        with lock: v.value += 1; a[0] += 2\n"
        "if __name__ == '__main__':\n    v, a, lock = Value('i', 0), Array('i', 3), Lock()\n"
        "    ps = [Process(target=f, args=(v, a, lock)) for _ in range(3)]\n"
        "    [p.start() for p in ps]; [p.join() for p in ps]\n    print(v.value, a[0])",
        "",
        "150 300",
    ),
    "shared anonymous memory": (
        "python",
        "import mmap, os\nm = mmap.mmap(-1, 1 << 20)\nif os.fork() == 0:\n    m[0] = 9; os._exit(0)\nos.wait(); print(m[0])",
        "",
        "9",
    ),
    "temporary files": (
        "python",
        "import tempfile, os\nwith tempfile.NamedTemporaryFile('w+') as f, tempfile.TemporaryDirectory() as d:\n"
        "    f.write('x' * 5_000_000); f.flush(); open(d + '/a', 'w').write('y'); print(os.path.getsize(f.name), os.listdir(d))",
        "",
        "5000000 ['a']",
    ),
    "files in its folder": (
        "python",
        "open('out.txt', 'w').write(input()); print(open('out.txt').read())",
        "abc",
        "abc",
    ),
    "python from python": (
        "python",
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)",
        "",
        "42",
    ),
    "a shell": (
        "python",
        "import subprocess\nprint(subprocess.check_output('echo $((6 * 7))', shell=True, text=True))",
        "",
        "42",
    ),
    "a module as a program": ("python", "import sys\nprint(sys.argv[1:], __name__)\nsys.exit()", "", "[] __main__"),
    "a database": (
        "python",
        "import sqlite3\nc = sqlite3.connect('a.db')\nc.execute('CREATE TEMP TABLE t AS SELECT 1 AS x UNION SELECT 2')\n"
        "print(c.execute('SELECT sum(x) FROM t').fetchone()[0])",
        "",
        "3",
    ),
    "large output": (
        "python",
        "import sys\nsys.stdout.write('123456789\\n' * 1_000_000)",
        "",
        "123456789\n" * 1_000_000,
    ),
    "much on the standard error": ("python", "import sys\nsys.stderr.write('noise\\n' * 500_000)\nprint(1)", "", "1"),
    "a lot of input": ("python", "import sys\nprint(sum(map(int, sys.stdin)))", "7\n" * 300_000, "2100000"),
    "signals": (
        "python",
        "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: print('alarm'))\nsignal.setitimer(0, 0.05)\nsignal.pause()",
        "",
        "alarm",
    ),
    "a short sleep": ("python", "import time\ntime.sleep(1.5)\nprint(1)", "", "1"),
    "dates and places": (
        "python",
        "import datetime, locale, time\nlocale.setlocale(locale.LC_ALL, '')\nprint(time.tzname[0])",
        "",
        "UTC",
    ),
    "fd 0 in Node": ("javascript", "console.log(require('fs').readFileSync(0, 'utf8').trim())", "abc\n", "abc"),
    "/dev/stdin in Node": (
        "javascript",
        "console.log(require('fs').readFileSync('/dev/stdin', 'utf8').trim())",
        "abc",
        "abc",
    ),
    "lines in Node": (
        "javascript",
        "const rl = require('readline').createInterface({ input: process.stdin });\nlet sum = 0;\n"
        "rl.on('line', (l) => { sum += Number(l); }).on('close', () => console.log(sum));",
        "1\n2\n3",
        "6",
    ),
    "a stream in Node": (
        "javascript",
        "let s = ''; process.stdin.on('data', (c) => { s += c; }).on('end', () => console.log(s.length));",
        "x" * 200_000,
        "200000",
    ),
    "timers in Node": (
        "javascript",
        "setTimeout(() => console.log('late'), 50); console.log('early');",
        "",
        "early\nlate",
    ),
    "worker threads in Node": (
        "javascript",
        "const { Worker, isMainThread, parentPort } = require('worker_threads');\n"
        "if (isMainThread) {\n  let left = 3, sum = 0;\n  for (let i = 0; i < 3; i++) new Worker(__filename).on('message', "
        "(m) => { sum += m; if (!--left) console.log(sum); });\n} else parentPort.postMessage(7);",
        "",
        "21",
    ),
    "shared buffers in Node": (
        "javascript",
        "const { Worker, isMainThread, workerData } = require('worker_threads');\n"
        "if (isMainThread) {\n  const b = new SharedArrayBuffer(4);\n  new Worker(__filename, { workerData: b })"
        ".on('exit', () => console.log(new Int32Array(b)[0]));\n} else Atomics.store(new Int32Array(workerData), 0, 5);",
        "",
        "5",
    ),
    "WebAssembly in Node": (
        "javascript",
        "const m = new WebAssembly.Memory({ initial: 1 });\nnew Uint8Array(m.buffer)[0] = 3; console.log(m.buffer.byteLength);",
        "",
        "65536",
    ),
    "files in Node": (
        "javascript",
        "const fs = require('fs'), os = require('os');\nfs.writeFileSync(os.tmpdir() + '/a', 'x'.repeat(1e6));\n"
        "console.log(fs.statSync('/tmp/a').size);",
        "",
        "1000000",
    ),
    "a process in Node": (
        "javascript",
        "console.log(require('child_process').execSync('echo hi').toString());",
        "",
        "hi",
    ),
    "large output in Node": (
        "javascript",
        "process.stdout.write('123456789\\n'.repeat(500000));",
        "",
        "123456789\n" * 500_000,
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name):
    language, program, stdin, stdout = HONEST[name]
    [got] = score_all([program], [{"stdin": stdin, "stdout": stdout}], language)
    assert (got.value, got.error) == (1.0, "")


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_values_of_called_functions_whatever_is_printed(language):
    programs = {
        "python": "import sys\ndef f(n):\n    print('x' * 1_000_000); sys.stderr.write('y' * 1_000_000)\n    return [n] * n",
        "javascript": "function f(n) { console.log('x'.repeat(1e6)); return Array(n).fill(n); }",
    }
    tests = [{"function": "f", "args": [100_000], "result": [100_000] * 100_000}]
    [got] = score_all([programs[language]], tests, language)
    assert (got.value, got.error) == (1.0, "")


# -- programs that want more than they are given ------------------------------------------------------------------

HOLD = """
def hold(mib):
    data = bytearray(mib << 20)
    for i in range(0, len(data), 4096): data[i] = 1
    return data
"""
SPREAD = (
    HOLD
    + "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        data = hold(150); time.sleep(8); os._exit(0)\n"
)
MEMORY = {
    "six processes": ("python", SPREAD + "for _ in range(6): os.wait()\nprint(1)"),
    "processes that nobody waits for": ("python", SPREAD + "time.sleep(5)\nprint(1)"),
    "in sessions of their own": (
        "python",
        SPREAD.replace("data = hold", "os.setsid(); data = hold") + "time.sleep(5)\nprint(1)",
    ),
    "a double fork": (
        "python",
        SPREAD.replace("data = hold", "os.fork() and os._exit(0); data = hold") + "time.sleep(5)\nprint(1)",
    ),
    "temporary files": (
        "python",
        "import os, time\nfor i in range(6):\n    for folder in ('/tmp', '/dev/shm'):\n"
        "        with open(f'{folder}/{i}', 'wb') as f: f.write(bytes(30 << 20))\ntime.sleep(1)\nprint(1)",
    ),
    "deleted files": (
        "python",
        "import os, time\nkept = []\nfor i in range(9):\n    for folder in ('/tmp', '/dev/shm'):\n"
        "        f = open(f'{folder}/x', 'wb'); os.unlink(f.name); f.write(bytes(20 << 20)); f.flush(); kept.append(f)\n"
        "time.sleep(1)\nprint(1)",
    ),
    "many empty files": (
        "python",
        "import os\nfor i in range(1 << 20):\n    os.close(os.open(f'/tmp/{i}', os.O_CREAT))\nprint(1)",
    ),
    "shared anonymous memory": (
        "python",
        "import mmap, os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        m = mmap.mmap(-1, 100 << 20)\n"
        "        for i in range(0, len(m), 4096): m[i] = 1\n        time.sleep(8); os._exit(0)\ntime.sleep(5)\nprint(1)",
    ),
    "shared memory that left the process": (
        "python",
        "import mmap, os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        m = mmap.mmap(-1, 100 << 20)\n"
        "        for i in range(0, len(m), 4096): m[i] = 1\n        m.madvise(mmap.MADV_DONTNEED)\n"
        "        time.sleep(8); os._exit(0)\ntime.sleep(5)\nprint(1)",
    ),
    "memory files": (
        "python",
        "import os\nf = os.memfd_create('x')\nfor _ in range(40): os.write(f, bytes(10 << 20))\nprint(1)",
    ),
    "one process": ("python", HOLD + "data = hold(300)\nprint(1)"),
    "threads": (
        "python",
        HOLD
        + "import threading, time\nkept = []\nts = [threading.Thread(target=lambda: kept.append(hold(60))) for _ in range(6)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\ntime.sleep(1)\nprint(len(kept) and 1)"
        "\nassert len(kept) == 6",
    ),
    "buffers in Node": (
        "javascript",
        "const x = []; for (let i = 0; i < 60; i++) x.push(Buffer.alloc(1e7, 1)); console.log(1)",
    ),
    "shared buffers in Node": (
        "javascript",
        "const x = []; for (let i = 0; i < 60; i++) x.push(new Uint8Array(new SharedArrayBuffer(1e7)).fill(1));\nconsole.log(1)",
    ),
    "workers in Node": (
        "javascript",
        "const { Worker, isMainThread } = require('worker_threads');\nif (isMainThread) {\n"
        "  for (let i = 0; i < 5; i++) new Worker(__filename);\n  setTimeout(() => { console.log(1); process.exit(0); }, 3000);\n"
        "} else { globalThis.x = Buffer.alloc(9e7, 1); setTimeout(() => {}, 3000); }",
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_that_of_all_processes_together(name, accounting):
    language, program = MEMORY[name]
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], language, memory_mib=256)
    assert (got.value, got.status) == (0.0, "ok")
    assert "MiB of memory" in got.error or "exit code" in got.error


def test_memory_in_common_counts_once(accounting):
    """Four children of a parent that holds 120 MiB hold the same 120 MiB."""
    program = HOLD + "import os, time\ndata = hold(120)\nfor _ in range(4):\n    if os.fork() == 0:\n"
    program += "        time.sleep(0.5); os._exit(0)\nfor _ in range(4): os.wait()\nprint(1)"
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], memory_mib=256)
    assert (got.value, got.error) == (1.0, "")


FORKED = "import os, time, signal\n{}\nfor _ in range(4):\n    if os.fork() == 0:\n        {}\n        while True: pass\n{}\nprint(1)"
CPU = {
    "a loop": ("python", "while True: pass"),
    "four processes": ("python", FORKED.format("", "", "os.wait()")),
    "that nobody waits for": ("python", FORKED.format("", "", "time.sleep(60)")),
    "in sessions of their own": ("python", FORKED.format("", "os.setsid()", "time.sleep(60)")),
    "that ignore signals": (
        "python",
        FORKED.format("", "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15, 24)]", "time.sleep(60)"),
    ),
    "double forks": ("python", FORKED.format("", "os.fork() and os._exit(0)", "time.sleep(60)")),
    "one process after the other": (
        "python",
        "import os\nwhile True:\n    if os.fork() == 0:\n        sum(range(1_000_000)); os._exit(0)\n    os.wait()",
    ),
    "threads": (
        "python",
        "import threading, zlib\nx = bytes(10 << 20)\ndef f():\n    while True: zlib.compress(x)\n"
        "for _ in range(4): threading.Thread(target=f, daemon=True).start()\nimport time; time.sleep(60)",
    ),
    "a thread beside a main program that has ended": (
        "python",
        "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\nprint(1)",
    ),
    "a handler for the signal": (
        "python",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass",
    ),
    "a slow regular expression": ("python", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
    "a large power": ("python", "x = 9 ** 10 ** 9\nprint(1)"),
    "a fork bomb": ("python", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    "a bomb of sessions": (
        "python",
        "import os\nwhile True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
    ),
    "workers in Node": (
        "javascript",
        "const { Worker, isMainThread } = require('worker_threads');\n"
        "if (isMainThread) for (let i = 0; i < 4; i++) new Worker(__filename);\nelse for (;;);",
    ),
    "turns of the loop in Node": ("javascript", "const f = () => setImmediate(f); f();"),
}


@pytest.mark.parametrize("name", CPU)
def test_cpu_time_is_that_of_all_processes_together(name, accounting):
    language, program = CPU[name]
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], language, timeout_s=1.0)
    assert (got.value, got.status) == (0.0, "ok")
    assert got.error == "case 1 of 1: timeout after 1 CPU seconds"


def test_cpu_time_of_children_that_are_never_waited_for():
    """They leave no trace among the times of their parents; a control group remembers."""
    if "CPU time: watching" in usage.accounting():
        pytest.skip("no control groups on this machine")
    program = "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n    if os.fork() == 0:\n"
    program += "        sum(range(200_000)); os._exit(0)\n    try: os.wait()\n    except OSError: pass"
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], timeout_s=1.0)
    assert got.error == "case 1 of 1: timeout after 1 CPU seconds"


WAIT = {
    "a sleep": ("python", "import time; time.sleep(1000)"),
    "in short naps": ("python", "import time\nwhile True: time.sleep(0.01)"),
    "a lock": ("python", "import threading\nl = threading.Lock(); l.acquire(); l.acquire()"),
    "a pipe": ("python", "import os\nr, w = os.pipe(); os.read(r, 1)"),
    "its own stop": ("python", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
    "a child": ("python", "import os, time\nif os.fork() == 0: time.sleep(1000)\nos.wait()"),
    "a child after vfork": ("python", "import subprocess; subprocess.run(['sleep', '1000'])"),
    "a stopped child after vfork": (
        "python",
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.syscall(58) or libc.pause()",
    ),
    "threads": (
        "python",
        "import threading, time\nfor _ in range(5): threading.Thread(target=time.sleep, args=(99,)).start()",
    ),
    "without output": ("python", "import os, time\nos.close(1); os.close(2); time.sleep(1000)"),
    "after its answer": ("python", "import time\nprint(1, flush=True); time.sleep(1000)"),
    "at exit": ("python", "import atexit, time\natexit.register(time.sleep, 1000)\nprint(1)"),
    "a timer in Node": ("javascript", "setTimeout(() => {}, 1e9)"),
    "an atomic in Node": ("javascript", "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)"),
}


@pytest.mark.parametrize("name", WAIT)
def test_waiting_has_a_deadline_of_its_own(name, accounting):
    language, program = WAIT[name]
    started = time.perf_counter()
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], language, timeout_s=1.0)
    assert (got.value, got.status) == (0.0, "ok")
    assert got.error == "case 1 of 1: timeout after 1 s of waiting"
    assert time.perf_counter() - started < 30


def test_programs_that_wait_hold_up_nobody():
    """Forty that sleep through 25 cases each, and one that is right: minutes, if they stood in line for the cores."""
    tests = [{"stdin": str(i), "stdout": str(i)} for i in range(25)]
    started = time.perf_counter()
    scores = score_all(["import time; time.sleep(1000)"] * 40 + ["print(input())"], tests, timeout_s=1.0, partial=True)
    assert [one.value for one in scores] == [0.0] * 40 + [1.0]
    assert time.perf_counter() - started < 40


def test_a_busy_machine_fails_nobody(accounting):
    """Eight endless loops want the two cores or so; a program that needs half of its time gets it."""
    program = "import time\nwhile time.process_time() < 0.7: pass\nprint(1)"
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        scores = score_all([program] * 4, [{"stdin": "", "stdout": "1"}], timeout_s=1.5)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert [(one.value, one.error) for one in scores] == [(1.0, "")] * 4


# -- programs that want something else ----------------------------------------------------------------------------

OPEN_SOCKETS = """
import socket
for family in range(64):
    for kind in (1, 2, 3, 5):
        try: socket.socket(family, kind); print('open', family, kind)
        except OSError: pass
    if family != socket.AF_UNIX:
        try: socket.socketpair(family); print('pair', family)
        except OSError: pass
print('end')
"""
REACH = """
import os
for pid in filter(str.isdecimal, os.listdir('/proc')):
    if int(pid) in (os.getpid(), 1): continue
    print('other', pid)
for name in ('environ', 'mem', 'maps', 'fd/0', 'fd/1', 'fd/3', 'cwd', 'root/etc', 'exe'):
    try: open(f'/proc/1/{name}', 'rb').read(1); print('read', name)
    except OSError: pass
    try: open(f'/proc/1/{name}', 'wb'); print('write', name)
    except OSError: pass
for name in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches', '/proc/1/oom_score_adj'):
    try: os.write(os.open(name, os.O_WRONLY), b'1'); print('wrote', name)
    except OSError: pass
try: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000'); print('spared')
except OSError: pass
print('end')
"""
NOTHING = {
    "sockets of any family": OPEN_SOCKETS,
    "other processes": REACH,
    "a terminal": "import os\nfor name in ('/dev/tty', '/dev/console', '/dev/tty0', '/dev/mem', '/dev/kmsg', '/dev/sda'):\n"
    "    try: os.open(name, os.O_RDWR); print(name)\n    except OSError: pass\nprint('end')",
    "calls of the system": "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
    "for name in ('ptrace', 'unshare', 'setns', 'memfd_create', 'shmget', 'msgget', 'semget', 'mount', 'keyctl'):\n"
    "    if getattr(libc, name, lambda *a: -1)(1, 1, 1, 1) != -1: print(name)\n"
    "for number in (101, 310, 311, 321, 323, 425, 438, 447):\n    if libc.syscall(number, 0, 0, 0, 0, 0) != -1: print(number)\n"
    "print('end')",
    "higher limits": "import resource\nfor name in ('AS', 'DATA', 'CPU', 'NPROC', 'FSIZE', 'NOFILE'):\n"
    "    limit = getattr(resource, f'RLIMIT_{name}')\n"
    "    try: resource.setrlimit(limit, (resource.RLIM_INFINITY,) * 2); print(name)\n    except (OSError, ValueError): pass\n"
    "print('end')",
    "a namespace of users": "import os, subprocess\nprint(subprocess.run(['unshare', '-U', 'true'], stderr=-3).returncode and 'end')",
    "control groups": "import os\nprint(os.path.exists('/sys/fs/cgroup') or 'end')",
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_else_can_be_reached(name):
    [got] = score_all([NOTHING[name]], [{"stdin": "", "stdout": "end"}])
    assert (got.value, got.error) == (1.0, "")


CLEAR = "\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202e"


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", f"import sys\nsys.stderr.write('{CLEAR}')\nsys.exit(1)"),
        ("python", f"raise ValueError('{CLEAR}')"),
        ("python", f"print('{CLEAR}')"),
        ("python", "import os\nos.write(1, bytes(range(256)))"),
        ("python", "import os\nos.write(2, bytes(range(256)))\nos._exit(1)"),
        ("javascript", f"throw '{CLEAR}'"),
    ],
)
def test_control_characters_never_reach_a_terminal(language, program):
    [got] = score_all([program], [{"stdin": "", "stdout": "1"}], language)
    assert got.value == 0.0
    assert got.error.isprintable()


def test_errors_of_a_query_are_made_fit_to_be_shown():
    tests = [{"setup": "", "rows": [[1]]}]
    [got] = score_all(['SELECT * FROM "\x1b[31m"'], tests, "sql")
    assert got.value == 0.0
    assert got.error.isprintable()
