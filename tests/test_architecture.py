"""The floors of the house, and the few rules of form that a machine can hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "snello"
FLOORS = [  # ground first; rooms on one floor may not import each other
    {"config", "bundled"},
    {"ops"},
    {"quant", "dms", "planner"},
    {"policies"},
    {"cache"},
    {"models"},
    {"engine", "retrofit", "hf"},
    {"server", "evaluation"},
    {"cli"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE_LINES = 500


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[str]:
    """Modules that a file names, at any depth and under TYPE_CHECKING too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"write imports in full: {path}:{node.lineno}"
            names.append(node.module or "")
        elif isinstance(node, ast.Constant) and is_registry_entry(node.value):
            names.append(node.value.partition(":")[0])
    return names


def is_registry_entry(value: object) -> bool:
    """A registry names its entries "snello.room.module:Name"; that is an import as well."""
    return (
        isinstance(value, str)
        and value.startswith("snello.")
        and value.replace(":", ".").replace(".", "").isidentifier()
        and ":" in value
    )


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports from."""
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("snello.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEverySource:
    def test_imports_run_downhill(self, path):
        room = room_of(path)
        if room == "__init__":
            return  # the front door names what it loads later; see test_the_front_door_is_light
        for other in imported_rooms(path) - {room}:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} may not import {other}: {path}"

    def test_first_line_says_what_the_file_owns(self, path):
        documentation = ast.get_docstring(ast.parse(path.read_text()))
        assert documentation, f"no docstring: {path}"
        first = documentation.splitlines()[0]
        assert first[0].isupper() or first[0] in "`:", f"start with a capital: {first!r}"
        assert first.endswith((".", "?", ":")) or ". " in first, f"end the sentence: {first!r}"

    def test_is_short_enough_to_be_one_thing(self, path):
        num_lines = len(path.read_text().splitlines())
        assert num_lines <= LONGEST_FILE_LINES, f"{num_lines} lines, split it: {path}"

    def test_is_ascii(self, path):
        assert path.read_text().isascii(), f"write ASCII: {path}"


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms <= set(FLOOR_OF), f"give {rooms - set(FLOOR_OF)} a floor"


def test_the_front_door_is_light():
    """`import snello` loads nothing else of the package; `snello.LLM` loads what it needs."""
    code = (
        "import sys, snello\n"
        "assert not [name for name in sys.modules if name.startswith('snello.')]\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert snello.SamplingParams is snello.SamplingConfig\n"
        "assert 'torch' not in sys.modules\n"
        "assert [getattr(snello, name) for name in snello.__all__]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["config", "cli.main", "bundled.problems", "bundled.words"])
def test_imports_without_torch(package):
    """`snello --help` and the configs must come up quickly, on any machine."""
    code = (
        "import sys, importlib, pkgutil\n"
        f"room = importlib.import_module('snello.{package}')\n"
        "for found in pkgutil.iter_modules(getattr(room, '__path__', [])):\n"
        "    importlib.import_module(room.__name__ + '.' + found.name)\n"
        "print('torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_registry_entry_counts_as_an_import(tmp_path):
    source = tmp_path / "table.py"
    source.write_text('"""A table."""\nTABLE = {"llama": "snello.models.llama:Decoder"}\n')
    assert imported_rooms(source) == {"models"}


def test_an_import_inside_a_function_counts(tmp_path):
    source = tmp_path / "late.py"
    source.write_text('"""Late."""\ndef f():\n    from snello.cli.main import main\n    main()\n')
    assert imported_rooms(source) == {"cli"}
