"""One line and an exit code for every failure; help that is quick; files whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import types

import pytest

from snello import __version__
from snello.cli import main as command
from snello.cli.console import check_writable, print_table, write_json, write_text
from snello.cli.main import BUG, INTERRUPTED, MISTAKE, OK, VERBS, main


def error_of(capsys):
    """The one line on stderr."""
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1, f"one line, not: {captured!r}"
    assert captured.startswith("snello: error: ")
    return captured.removeprefix("snello: error: ").rstrip("\n")


@pytest.fixture
def planted(monkeypatch):
    """Make `snello evaluate` do what a test wants."""

    def plant(run):
        module = types.ModuleType("planted_verb")
        module.run = run
        monkeypatch.setitem(sys.modules, "planted_verb", module)
        verb = VERBS["evaluate"]._replace(run="planted_verb:run")
        monkeypatch.setitem(command.VERBS, "evaluate", verb)

    return plant


def raising(error):
    def run(config):
        raise error

    return run


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == OK
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in VERBS)


def test_no_words_at_all_is_a_mistake_that_shows_the_verbs(capsys):
    assert main([]) == MISTAKE
    assert "evaluate" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == OK
    assert capsys.readouterr().out == f"snello {__version__}\n"


def test_help_of_a_verb_shows_the_fields_of_its_config(capsys):
    assert main(["evaluate", "--help"]) == OK
    shown = capsys.readouterr().out
    assert "--max-new-tokens" in shown
    assert "How many problems" in shown


def test_flags_become_the_config(planted):
    seen = []
    planted(seen.append)
    assert main(["evaluate", "bundled", "--problems", "7", "--level", "1", "3"]) == OK
    assert seen[0].model == "bundled"
    assert seen[0].problems == 7
    assert seen[0].level == (1, 3)


def test_help_imports_no_torch():
    code = "import sys; from snello.cli.main import main; main(['--help']); main(['demo', '-h']);"
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["talk"], "'talk' is no command of snello; known: demo, retrofit"),
        (["evaluate"], "Missing from snello evaluate: MODEL"),
        (["evaluate", "m", "--problem", "3"], "Unrecognized options: --problem"),
        (["evaluate", "m", "--problems", "many"], "invalid literal for int"),
        (["evaluate", "m", "--memories", "huge"], "'dense', 'sparse', 'window'"),
        (["evaluate", "m", "--problems", "0"], "problems is 0; it must be at least 1"),
        (["evaluate", "m", "--memories", "window"], "name both"),
        (["evaluate", "m", "--temperature", "-1"], "temperature is -1.0; it must be 0 or more"),
        (["demo", "--factor", "0.125"], "write 8, not 0.125"),
        (["demo", "--steps", "0"], "DemoConfig.steps is 0; it must be at least 1"),
    ],
)
def test_a_mistake_in_the_words_is_one_line_and_exit_code_2(words, expected, capsys):
    assert main(words) == MISTAKE
    assert expected in error_of(capsys)


def test_a_long_complaint_keeps_all_its_words(capsys):
    main(["evaluate", "m", "--memories", "window"])
    assert (
        "the window is made as wide as the sparse run's live tokens, so name both; "
        "`snello evaluate --help` lists what is allowed"
    ) in error_of(capsys)


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ValueError("it came\n so; do this"), MISTAKE, "it came so; do this"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), MISTAKE, "/x/y; check the path"),
        (OSError(errno.ENOSPC, "No space left on device"), MISTAKE, "nothing half-written"),
        (PermissionError(errno.EACCES, "Permission denied", "/r"), MISTAKE, "you may read"),
        (OSError("odd"), MISTAKE, "odd"),
        (KeyboardInterrupt(), INTERRUPTED, "stopped by Ctrl-C"),
        (ZeroDivisionError("division"), BUG, "ZeroDivisionError: division; this is a fault"),
    ],
)
def test_a_failure_in_a_verb_is_one_line_with_its_exit_code(error, code, expected, capsys, planted):
    planted(raising(error))
    assert main(["evaluate", "m"]) == code
    assert expected in error_of(capsys)


def test_a_fault_of_ours_tells_to_run_with_debug(capsys, planted):
    planted(raising(AssertionError()))
    assert main(["evaluate", "m"]) == BUG
    assert "run the same with --debug" in error_of(capsys)


@pytest.mark.parametrize("words", [["--debug", "evaluate", "m"], ["evaluate", "m", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(words, capsys, planted):
    planted(raising(ValueError("a reason")))
    assert main(words) == MISTAKE
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("snello: error: a reason\n")


def test_out_of_pages_is_a_mistake_of_the_caller(capsys, planted):
    pages = pytest.importorskip("snello.cache.pages")
    planted(raising(pages.OutOfPages("no pages; give more")))
    assert main(["evaluate", "m"]) == MISTAKE
    assert "no pages; give more" in error_of(capsys)


def test_an_interrupted_process_leaves_no_traceback():
    code = (
        "import sys, types; from snello.cli import main as m\n"
        "def run(config): raise KeyboardInterrupt\n"
        "sys.modules['p'] = types.SimpleNamespace(run=run)\n"
        "m.VERBS['demo'] = m.VERBS['demo']._replace(run='p:run')\n"
        "sys.exit(m.main(['demo']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == INTERRUPTED
    assert "Traceback" not in ran.stderr


def test_every_verb_names_modules_that_exist():
    for name, verb in VERBS.items():
        for place in (verb.config, verb.run):
            assert command._load(place), f"{name}: {place}"


def test_json_is_written_whole(tmp_path):
    target = tmp_path / "new" / "figures.json"
    write_json(target, {"wall_s": 1.5})
    assert json.loads(target.read_text()) == {"wall_s": 1.5}
    assert os.listdir(target.parent) == ["figures.json"]


def test_a_figure_that_is_no_number_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "figures.json", {"wall_s": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    write_text(target, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_is_no_place_for_json(tmp_path):
    check_writable(tmp_path / "deep" / "figures.json")
    check_writable(None)
    with pytest.raises(ValueError, match="is a folder; give the name of a file"):
        check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable(tmp_path / "file" / "figures.json")


def test_a_table_too_wide_for_the_terminal_stands_on_its_side(capsys, monkeypatch):
    columns = ["memory", *(f"figure {i}" for i in range(9))]
    rows = [["dense", *"123456789"], ["[sparse]", *"987654321"]]
    monkeypatch.setenv("COLUMNS", "200")
    print_table("wide", columns, rows)
    assert "dense" in next(r for r in capsys.readouterr().out.splitlines() if "\u2502 dense" in r)
    monkeypatch.setenv("COLUMNS", "50")
    print_table("narrow", columns, rows)
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 50
    assert "figure 8" in narrow
