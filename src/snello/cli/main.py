"""From the command's words to one verb's `run`, and from any failure to one line and an exit code.

Knows nothing of what a verb does. A verb's flags are the fields of its config dataclass, and its
module is imported only when it is called for.
"""

import contextlib
import errno
import io
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from snello import __version__


class Verb(NamedTuple):
    """One action: where its config and its `run` live, and what it is for."""

    config: str
    run: str
    purpose: str


VERBS = {
    "demo": Verb(
        "snello.config.demo:DemoConfig",
        "snello.cli.demo:run",
        "retrofit the bundled model, compare memories, write a report",
    ),
    "retrofit": Verb(
        "snello.config.retrofit:RetrofitConfig",
        "snello.cli.retrofit:run",
        "teach a model what to forget",
    ),
    "generate": Verb(
        "snello.config.generate:GenerateConfig",
        "snello.cli.generate:run",
        "answer prompts with a slim cache",
    ),
    "chat": Verb(
        "snello.config.chat:ChatConfig",
        "snello.cli.chat:run",
        "talk with a model in the terminal",
    ),
    "inspect": Verb(
        "snello.config.inspect:InspectConfig",
        "snello.cli.inspect:run",
        "show what each layer and head keeps of a text",
    ),
    "quantize": Verb(
        "snello.config.quantize:QuantizeConfig",
        "snello.cli.quantize:run",
        "write a model with weights in int8 or int4",
    ),
    "evaluate": Verb(
        "snello.config.evaluate:EvaluateConfig",
        "snello.cli.evaluate:run",
        "let dense, sparse and windowed memory answer the same problems",
    ),
}

ADVICE = {
    errno.ENOENT: "check the path, or give a folder that exists",
    errno.ENOTDIR: "give a folder, not a file",
    errno.EISDIR: "give a file, not a folder",
    errno.EACCES: "choose a place you may read and write",
    errno.EROFS: "choose a place you may write",
    errno.ENOSPC: "free some space or choose another place; nothing half-written was left",
}
FRAME = " -|\u2500\u2502\u256d\u256e\u2570\u256f"  # what tyro draws around its complaints
OK, BUG, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    0 done; 2 a mistake of the caller (one line on stderr); 1 a mistake of ours; 130 Ctrl-C.
    `--debug`, before or after the verb, shows the traceback in every case.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", INTERRUPTED, debug)
    except _mistakes() as error:
        return _fail(_describe(error), MISTAKE, debug)
    except Exception as error:  # noqa: BLE001  the last line before the user: nothing is hidden
        line = f"{type(error).__name__}: {_one_line(str(error))}; this is a fault in snello"
        return _fail(f"{line}; run the same with --debug and report what it shows", BUG, debug)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return OK if words else MISTAKE
    if words[0] == "--version":
        print(f"snello {__version__}")
        return OK
    name, *flags = words
    if name not in VERBS:
        raise ValueError(f"{name!r} is no command of snello; known: {', '.join(VERBS)}.")
    verb = VERBS[name]
    config = _parse(_load(verb.config), f"snello {name}", flags)
    if config is not None:
        _load(verb.run)(config)
    return OK


def _parse(config_class: Callable[..., Any], prog: str, flags: list[str]) -> Any | None:
    """Return the config that the flags describe, or None after `--help` was printed.

    Raises:
        ValueError: flags that do not fit; the framed text of tyro becomes one line.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_class, prog=prog, args=flags)
    except SystemExit as exit_request:
        if exit_request.code in (None, 0):
            return None
    line = _first_complaint(complaint.getvalue())
    raise ValueError(f"{line}; `{prog} --help` lists what is allowed")


def _first_complaint(framed: str) -> str:
    """What stands between a frame's title and its first rule, as a sentence.

    The title may sit in the frame's edge or above a rule of its own.
    """
    rows = [row.strip(" |\u2502") for row in framed.splitlines() if row.strip()][1:]
    rows = rows[1:] if rows and not rows[0].strip(FRAME) else rows
    said = itertools.takewhile(lambda row: row.strip(FRAME), rows)
    line = re.sub(r"^Error parsing \w+Config: ", "", _one_line(" ".join(said)))
    return line.rstrip(".") or "the flags could not be read"


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _mistakes() -> tuple[type[Exception], ...]:
    """What a caller can cause; our own events count only once their module has been imported."""
    pages = sys.modules.get("snello.cache.pages")
    return (ValueError, OSError, *((pages.OutOfPages,) if pages else ()))


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in ADVICE:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}; {ADVICE[error.errno]}"
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fail(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"snello: error: {line}", file=sys.stderr)
    return code


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {verb.purpose}" for name, verb in VERBS.items())
    return (
        "usage: snello COMMAND ... [--debug] | --help | --version\n\n"
        "Slim memory for reasoning language models: learn what to forget, then really forget it.\n"
        f"\n{rows}\n\n`snello COMMAND --help` lists its flags. --debug shows the traceback of an "
        "error."
    )


if __name__ == "__main__":
    sys.exit(main())
