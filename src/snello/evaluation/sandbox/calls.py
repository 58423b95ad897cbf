"""Which system calls a model's code may not make, as a filter program. Knows nothing of files.

Denied is what starts other processes, reaches the network or other processes, lasts beyond the
program, or changes files other than by writing to them. The rest stays allowed: what may be
written is for mounts and Landlock to say.
"""

import errno
from typing import NamedTuple


class Machine(NamedTuple):
    """How a kind of machine names itself in a filter."""

    number: int
    has_two_tables: bool
    """Whether numbers from `_SECOND_TABLE` on are the same calls again."""


MACHINES = {"x86_64": Machine(0xC000003E, True), "aarch64": Machine(0xC00000B7, False)}
_SECOND_TABLE = 0x40000000

DENIED: dict[str, tuple[int | None, int | None]] = {
    # name: (x86_64, aarch64); None where there is no such call
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "chmod": (90, None), "chown": (92, None), "chroot": (161, 51), "clock_settime": (227, 112),
    "delete_module": (176, 106), "fallocate": (285, 47), "fanotify_init": (300, 262),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "fchown": (93, 55),
    "fchownat": (260, 54), "finit_module": (313, 273), "fork": (57, None),
    "fremovexattr": (199, 16), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "futimesat": (261, None), "init_module": (175, 105),
    "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "lchown": (94, None), "lremovexattr": (198, 15), "lsetxattr": (189, 6),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "mq_open": (240, 180),
    "msgget": (68, 186), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "removexattr": (197, 14), "removexattrat": (466, 466),
    "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122), "semget": (64, 190), "setdomainname": (171, 162),
    "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140),
    "settimeofday": (164, 170), "setxattr": (188, 5), "setxattrat": (463, 463),
    "shmget": (29, 194), "socket": (41, 198), "swapoff": (168, 225), "swapon": (167, 224),
    "tkill": (200, 130), "truncate": (76, 45), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "utime": (132, None), "utimensat": (280, 88),
    "utimes": (235, None), "vfork": (58, None),
}  # fmt: skip

OWN_ALONE: dict[str, tuple[int, int]] = {
    "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261),
}  # fmt: skip
"""Allowed if the first argument is the caller's own process; `prlimit64` also if it is 0."""

EXCEPT_FOR: dict[str, tuple[tuple[int, int], tuple[int, ...]]] = {
    "fcntl": ((72, 25), (8, 10, 15)),  # who gets a signal, and which: F_SETOWN, _SIG, _OWN_EX
    "ioctl": ((16, 29), (0x8901, 0x8902, 0x5412, 0x541C)),  # the same, and typing for others
}
"""Allowed unless the second argument is one of these."""

CLONE, CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000

_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
Instruction = tuple[int, int, int, int]
"""Operation, how many instructions to skip if true, and if false, value."""


def build_filter(machine: str, own_process: int) -> list[Instruction]:
    """Return the filter for a process of this number, in the form of classic BPF.

    Raises:
        ValueError: the calls of such a machine are not known.
    """
    if machine not in MACHINES:
        raise ValueError(
            f"the system calls of a machine of the kind {machine} are not known here; known are "
            f"{', '.join(MACHINES)}"
        )
    column = list(MACHINES).index(machine)
    kind = MACHINES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, kind.number),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if kind.has_two_tables:
        program += [(_AT_LEAST, 0, 1, _SECOND_TABLE), (_RETURN, 0, 0, _KILL)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    # Libraries try clone3 first, and clone where there is none; only clone's flags can be read.
    program += [(_EQUAL, 0, 1, CLONE3[column]), _refuse(errno.ENOSYS)]
    program += _judge(CLONE[column], 0, [(_HAS_BITS, 0, 1, _CLONE_THREAD), _PERMIT])
    for name, own in OWN_ALONE.items():
        test = [(_EQUAL, 0, 1, own_process), _PERMIT]
        if name == "prlimit64":
            test += [(_EQUAL, 0, 1, 0), _PERMIT]
        program += _judge(own[column], 0, test)
    for general, refused in EXCEPT_FOR.values():
        tests = [step for value in refused for step in ((_EQUAL, 0, 1, value), _DENY)]
        program += _judge(general[column], 1, [*tests, _PERMIT])
    return [*program, _PERMIT]


def _refuse(reason: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | reason)


_PERMIT: Instruction = (_RETURN, 0, 0, _ALLOW)
_DENY = _refuse(errno.EPERM)


def _judge(number: int, argument: int, test: list[Instruction]) -> list[Instruction]:
    """Decide on a call by a test of one of its arguments; what the test leaves open is denied."""
    body = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument), *test, _DENY]
    return [(_EQUAL, 0, len(body), number), *body]
