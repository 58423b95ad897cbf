"""A model's code in the sandbox: what it needs works, all else is stopped, for root as well."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snello.evaluation import sandbox
from snello.evaluation.sandbox import Limits, run_python, run_to_end
from snello.evaluation.sandbox.calls import (
    CLONE,
    DENIED,
    EXCEPT_FOR,
    MACHINES,
    OWN_ALONE,
    build_filter,
)

SHORT = Limits(wall_s=1.0, memory_bytes=2**29, file_bytes=2**20, folder_bytes=2**22)


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "no namespaces"])
def run(request):
    """Run code with both layers of protection, and with the one that must hold alone."""
    try:
        run_python("pass")
    except ValueError as error:
        pytest.skip(str(error))

    def run_one(source, *, stdin="", limits=SHORT):
        return run_python(source, stdin=stdin, limits=limits, namespaces=request.param)

    run_one.namespaces = request.param
    return run_one


def test_a_program_reads_and_writes_and_has_a_folder(run):
    source = (
        "import math, os, sys\n"
        "with open('note', 'w') as file: file.write('kept')\n"
        "print(sys.stdin.read().upper(), open('note').read(), math.gcd(6, 4))\n"
        "print(sorted(os.environ))\n"
        "sys.stderr.write('aside')"
    )
    outcome = run(source, stdin="text")
    assert (outcome.status, outcome.exit_code, outcome.errors) == ("done", 0, "aside")
    lines = outcome.output.decode().splitlines()
    assert lines[0] == "TEXT kept 2"
    assert not re.search("HOME|PATH|USER", lines[1])


def test_threads_are_allowed(run):
    source = (
        "import threading\nt = threading.Thread(target=print, args=('on',))\nt.start(); t.join()"
    )
    assert run(source).output == b"on\n"


def test_the_exit_code_is_told(run):
    assert run("raise SystemExit(3)").exit_code == 3
    assert run("import os; os.abort()").exit_code == 128 + signal.SIGABRT
    failed = run("1 / 0")
    assert failed.status == "failed"
    assert "ZeroDivisionError" in failed.errors


STOPPED = {
    "fork": "import os\nos.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'])",
    "shell": "import os\nassert os.system('true') == 0",
    "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "write outside": "open('{outside}/evil', 'w')",
    "overwrite": "open('{outside}/mine', 'a')",
    "cut": "import os\nos.truncate('{outside}/mine', 0)",
    "remove": "import os\nos.remove('{outside}/mine')",
    "rename": "import os\nos.rename('{outside}/mine', 'mine')",
    "link": "import os\nos.link('{outside}/mine', 'mine')",
    "chmod": "import os\nos.chmod('{outside}/mine', 0o777)",
    "times": "import os\nos.utime('{outside}/mine')",
    "make folder": "import os\nos.mkdir('{outside}/folder')",
    "read": "open('{outside}/mine').read()",
    "list": "import os\nos.listdir('{outside}')",
    "kill parent": "import os\nos.kill(os.getppid(), 9)",
    "kill tester": "import os\nos.kill({pid}, 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "signal by pipe": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {pid})\n"
    ),
    "reserve": "import os\nos.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, 4096)",
    "trace": "import ctypes\nif ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) < 0: raise OSError",
    "mount": (
        "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, b'') < 0: raise OSError"
    ),
    "namespace": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) < 0: raise OSError",
    "memory": "x = []\nwhile True: x.append(bytearray(2**24))",
    "hidden file": "import os\nos.memfd_create('x')",
    "one large file": "open('x', 'wb').write(bytes(2**21))",
    "print": "while True: print('x' * 1000)",
    "recursion": "def f(): f()\nf()",
    "files": "x = [open('/dev/null') for _ in range(100)]",
}


@pytest.mark.parametrize("source", STOPPED.values(), ids=STOPPED.keys())
def test_what_is_not_allowed_fails(run, tmp_path, source):
    (tmp_path / "mine").write_text("whole")
    before = (tmp_path / "mine").stat()
    outcome = run(source.replace("{outside}", str(tmp_path)).replace("{pid}", str(os.getpid())))
    assert outcome.status == "failed", outcome
    assert len(outcome.output) <= SHORT.file_bytes
    assert os.listdir(tmp_path) == ["mine"]
    after = (tmp_path / "mine").stat()
    assert (tmp_path / "mine").read_text() == "whole"
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(60)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "deaf": (
        "import signal, time\n"
        "for s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\n"
        "time.sleep(60)"
    ),
    "own group": (
        "import os, time\ntry: os.setpgid(0, 0)\nexcept OSError: pass\n"
        "try: os.setsid()\nexcept OSError: pass\ntime.sleep(60)"
    ),
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_ended_and_leaves_nothing_behind(run, source):
    marked = f"mark = 'snello-test-{os.getpid()}'\n{source}"
    started = time.monotonic()
    outcome = run(marked, limits=Limits(wall_s=0.2))
    assert outcome.status == "timeout"
    assert time.monotonic() - started < 10
    assert not find_children(os.getpid())


def find_children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_a_program_ends_with_whoever_started_it(run, tmp_path):
    code = (
        "from snello.evaluation.sandbox import run_python\n"
        f"run_python('import time; time.sleep(60)', namespaces={run.namespaces})"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as starter:
        deadline = time.monotonic() + 20
        while not (children := find_children(starter.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # until it sleeps
        family = [*children, *(each for child in children for each in find_children(int(child)))]
        starter.kill()
    assert family
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)


def test_many_small_files_have_a_bound_where_the_folder_is_its_own():
    source = "for i in range(100): open(str(i), 'wb').write(bytes(2**19))"
    outcome = run_python(source, limits=SHORT)
    assert outcome.status == "failed"
    assert "No space left" in outcome.errors


def test_only_the_last_line_counts(run):
    assert run_to_end("assert 1 + 1 == 2")
    assert run_to_end("import io, sys\nsys.stdout = io.StringIO()")
    for early in ("raise SystemExit", "import os; os._exit(0)", "assert False", "1 +"):
        assert not run_to_end(early)


def test_without_protection_nothing_runs_unless_told_to(monkeypatch, run):
    def start_unprotected(jail):
        return jail.replace("jail import main; main()", BREAK_SECCOMP)

    monkeypatch.setattr(sandbox, "_START", start_unprotected(sandbox._START))
    with pytest.raises(ValueError, match=r"was not run, because .*: seccomp failed .*unprotected"):
        run_python("print('ran')")
    assert run_python("print('ran')", unprotected=True).output == b"ran\n"


BREAK_SECCOMP = (
    "calls import MACHINES; MACHINES.clear(); "
    "from snello.evaluation.sandbox.jail import main; main()"
)


def test_half_given_namespaces_are_done_without(monkeypatch, run):
    monkeypatch.setattr(
        sandbox,
        "_START",
        sandbox._START.replace("jail import main; main()", BREAK_NAMESPACES),
    )
    outcome = run_python("import os; print(os.getpid() == 2, end='')")
    assert (outcome.status, outcome.output) == ("done", b"False")


BREAK_NAMESPACES = """jail import main; from snello.evaluation.sandbox import jail
def refuse(path, text): raise PermissionError(path)
jail._write = refuse
main()
"""


def test_a_child_that_ends_too_early_is_no_wrong_answer(monkeypatch, run):
    monkeypatch.setattr(sandbox, "_START", "raise SystemExit(0)")
    with pytest.raises(ValueError, match="the child process ended at once"):
        run_python("print('ran')")


NOBODY = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "env": {}}


def find_python_for_all():
    """An interpreter that any user may run, and that this project runs on."""
    asks = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3")):
        try:
            subprocess.run([python, "-c", asks], check=True, **NOBODY)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("there is no Python 3.11 that another user may run")


def test_another_user_than_root_is_locked_down_as_well():
    """The same without root's powers: in a process of the user `nobody`."""
    if os.getuid() != 0:
        pytest.skip("this is another user than root already")
    python = find_python_for_all()
    package = Path(sandbox.__file__).parents[1]
    folder = Path("/tmp") / f"snello-nobody-{os.getpid()}"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from snello.evaluation.sandbox import run_python\n"
        "print(run_python('import os; print(os.getuid())').output)\n"
        'print(run_python(\'open("/tmp/evil", "w")\').status)\n'
        "print(run_python('import os; os.fork()', namespaces=False).status)\n"
    )
    try:
        for source in [package.parent / "__init__.py", package / "__init__.py"]:
            target = folder / source.relative_to(package.parents[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text())
        (folder / "snello/evaluation/sandbox").mkdir()
        for source in Path(sandbox.__file__).parent.glob("*.py"):
            (folder / "snello/evaluation/sandbox" / source.name).write_text(source.read_text())
        ran = subprocess.run(
            [python, "-B", "-c", code, folder],
            capture_output=True,
            text=True,
            **NOBODY,
        )
    finally:
        subprocess.run(["rm", "-r", folder], check=True)
    assert ran.stdout.split() == ["b'65534\\n'", "failed", "failed"], ran.stderr


def decide(program, machine, number, *arguments):
    """Run a filter on one call, as the kernel does."""
    at, value = 0, 0
    words = {
        0: number,
        4: MACHINES[machine].number,
        16: 0,
        24: 0,
        **{16 + 8 * i: a for i, a in enumerate(arguments)},
    }
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            value = words[operand]
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            at += if_true if holds[code] else if_false


ALLOWED, KILLED = 0x7FFF0000, 0x80000000


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
class TestFilter:
    def test_denied_calls_are_refused_and_others_not(self, machine, column):
        program = build_filter(machine, own_process=77)
        denied = {numbers[column] for numbers in DENIED.values()} - {None}
        assert all(decide(program, machine, number) == 0x00050001 for number in denied)
        special = {CLONE[column], 435, *(numbers[column] for numbers in OWN_ALONE.values())}
        special |= {numbers[column] for numbers, _ in EXCEPT_FOR.values()}
        others = set(range(500)) - denied - special
        assert all(decide(program, machine, number) == ALLOWED for number in others)

    def test_threads_and_signals_to_oneself_are_allowed(self, machine, column):
        program = build_filter(machine, own_process=77)
        assert decide(program, machine, CLONE[column], 0x3D0F00) == ALLOWED
        assert decide(program, machine, CLONE[column], 17) != ALLOWED
        for name, numbers in OWN_ALONE.items():
            assert decide(program, machine, numbers[column], 77) == ALLOWED
            assert decide(program, machine, numbers[column], 78) != ALLOWED
            allows_zero = decide(program, machine, numbers[column], 0) == ALLOWED
            assert allows_zero == (name == "prlimit64")

    def test_nobody_is_named_for_a_signal(self, machine, column):
        program = build_filter(machine, own_process=77)
        for numbers, refused in EXCEPT_FOR.values():
            for value in (*range(32), *range(0x5400, 0x5430), *range(0x8900, 0x8910)):
                verdict = decide(program, machine, numbers[column], 3, value)
                assert (verdict == ALLOWED) == (value not in refused)

    def test_calls_of_another_kind_of_machine_are_deadly(self, machine, column):  # noqa: ARG002
        program = build_filter(machine, own_process=77)
        other = "aarch64" if machine == "x86_64" else "x86_64"
        assert decide(program, other, 0) == KILLED
        if machine == "x86_64":
            assert decide(program, machine, 0x40000000 | 41) == KILLED


def test_a_machine_whose_calls_are_unknown_is_refused():
    with pytest.raises(ValueError, match=r"of the kind vax are not known here; known are x86_64"):
        build_filter("vax", 1)
