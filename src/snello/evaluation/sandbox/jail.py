"""The child's side: one process gives up all it does not need, then becomes a model's program.

Knows nothing of the program. Runs on a bare interpreter, and imports the standard library alone.
What cannot be done is reported to the parent, and then the program is not run. Two layers:

- no new privileges, no capabilities, limits, Landlock for files, a filter for system calls: what
  must hold, and holds for root too;
- namespaces, where the system gives them: no network devices, all mounts read-only but a small
  folder in memory, and process numbers of which the first, a waiting parent, ends all others.
"""

import json
import os
import platform
import resource
import sys
from typing import Any

from snello.evaluation.sandbox import NO_NAMESPACES, READY, kernel
from snello.evaluation.sandbox.calls import build_filter

OLDEST_LANDLOCK = 3
"""Before this version, a file outside could be cut to nothing."""

NUM_PROCESSES = 64
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_ALL_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF}
"""Rights over files that a version of Landlock can take away; later ones add none needed here."""

_RIGHTS_OF_FILES = _EXECUTE | _WRITE | _READ | 0x4000
_RIGHTS_TO_WRITE = 0x7FFF & ~(_EXECUTE | 0x40 | 0x800)  # no programs, no devices


def main() -> None:
    """Lock this process down and become the program, or report why not."""
    settings: dict[str, Any] = json.loads(sys.argv[2])
    report = settings["report"]
    os.set_inheritable(report, False)
    kernel.die_with_parent()
    try:
        has_namespaces = settings["namespaces"] and enter_namespaces()
        read_only = False
        if has_namespaces:
            _split(report)
            read_only = seal_mounts(settings["work"], settings["folder_bytes"])
            _split(report)
        _lock_down(settings, has_namespaces=has_namespaces, read_only=read_only)
        python, program = settings["python"], settings["program"]
        flags = ["-I", "-B", "-X", "utf8"]
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.write(report, READY)
        os.execve(python, [python, *flags, program], environment)
    except (OSError, ValueError) as error:
        os.write(report, str(error).encode())
        os._exit(1)


def enter_namespaces() -> bool:
    """Take network, mounts, process numbers and the like of one's own, if the system allows it.

    Raises:
        OSError: it was allowed by half, so that this process is of no use any more.
    """
    user, group = os.getuid(), os.getgid()
    try:
        kernel.unshare(
            kernel.CLONE_NEWUSER
            | kernel.CLONE_NEWNS
            | kernel.CLONE_NEWPID
            | kernel.CLONE_NEWNET
            | kernel.CLONE_NEWIPC
            | kernel.CLONE_NEWUTS
        )
    except OSError:
        return False
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    except OSError:  # there is no way back from here; the parent starts another child
        raise OSError(NO_NAMESPACES.decode()) from None
    return True


def seal_mounts(work: str, folder_bytes: int) -> bool:
    """Make all mounts read-only and put a folder in memory over `work`; tell whether that worked.

    Where it did not, Landlock alone keeps the program from writing elsewhere.
    """
    options = f"size={folder_bytes},mode=0700"
    try:
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE, "")
        kernel.make_mounts_read_only()
        kernel.mount("tmpfs", work, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    except OSError:
        return False
    return True


def _split(report: int) -> None:
    """Go on as a child; the parent stays behind, waits, and ends as the child did."""
    child = os.fork()
    if child == 0:
        kernel.die_with_parent()
        return
    os.close(report)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _lock_down(settings: dict[str, Any], *, has_namespaces: bool, read_only: bool) -> None:
    """Give up everything, in an order in which each step is still allowed.

    Raises:
        OSError: a step is not possible, and the program may not run without it.
    """
    is_strict = not settings["unprotected"]
    os.chdir(settings["work"])
    _set_limits(settings, has_namespaces=has_namespaces)
    for step, name in (
        (kernel.drop_capabilities, "giving up capabilities"),
        (kernel.refuse_new_privileges, "no_new_privs"),
        (lambda: _restrict_files(settings, read_only=read_only), "Landlock"),
        (_restrict_calls, "seccomp"),
    ):
        try:
            step()
        except (OSError, ValueError) as error:
            if is_strict:
                raise OSError(f"{name} failed ({error})") from None


def _set_limits(settings: dict[str, Any], *, has_namespaces: bool) -> None:
    seconds = int(settings["wall_s"]) + 2
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: settings["num_open_files"],
    }
    if has_namespaces:  # elsewhere it would count all that the user runs
        limits[resource.RLIMIT_NPROC] = NUM_PROCESSES
    for kind, amount in limits.items():
        hard = resource.getrlimit(kind)[1]
        capped = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (capped, capped))


def _restrict_files(settings: dict[str, Any], *, read_only: bool) -> None:
    version = kernel.landlock_version()
    if version < OLDEST_LANDLOCK and not read_only:
        raise OSError(f"the kernel has version {version}, and {OLDEST_LANDLOCK} is needed")
    handled = _ALL_RIGHTS[min(version, OLDEST_LANDLOCK)]
    ruleset = kernel.open_ruleset(handled)
    rights = dict.fromkeys(settings["readable"], _EXECUTE | _READ | _LIST)
    rights |= dict.fromkeys(settings["devices"], _READ | _WRITE)
    rights[settings["program"]] = _READ
    rights[settings["work"]] = _RIGHTS_TO_WRITE
    for path, wanted in rights.items():
        if os.path.exists(path):
            possible = handled if os.path.isdir(path) else handled & _RIGHTS_OF_FILES
            kernel.add_rule(ruleset, path, wanted & possible)
    kernel.restrict_self(ruleset)
    os.close(ruleset)


def _restrict_calls() -> None:
    kernel.install_filter(build_filter(platform.machine(), os.getpid()))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
