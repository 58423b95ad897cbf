"""A sweep end to end on a tiny model: killed and gone on with, refused, cut, and paired."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from snello.cli.main import MISTAKE, OK, main
from snello.config.dms import DecisionConfig
from snello.evaluation.record import read_line
from snello.models.adapter import CARD, WEIGHTS, Card

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """An adapter whose random decisions evict about half the tokens."""
    folder = tmp_path_factory.mktemp("slim") / "slim"
    folder.mkdir()
    torch.manual_seed(4)
    card = Card(base_model=str(tiny_folder), decision=DecisionConfig(window_tokens=6), factor=2.0)
    (folder / CARD).write_text(card.as_json())
    weights = {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.decision"
        weights[f"{prefix}.norm.weight"] = torch.ones(32)
        weights[f"{prefix}.proj.weight"] = torch.randn(2, 32) * 0.05
    save_file(weights, folder / WEIGHTS)
    return folder


def words(adapter, tiny_folder, out, *more):
    return [
        "evaluate", str(adapter), "--out", str(out), "--policies", "dms",
        "--contenders", f"{tiny_folder}@dense", "--questions", "3", "--threads", "1", "2",
        "--lengths", "8", "24", "--batch", "2", *map(str, more),
    ]  # fmt: skip


def records_of(out):
    """What each chain said and cost, whichever start computed it."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    found = {}
    for line in lines:
        line.pop("session")
        key = tuple(line[name] for name in ("contender", "task", "question", "chain"))
        assert key not in found
        found[key] = line
    return found


@pytest.fixture(scope="module")
def whole(adapter, tiny_folder, tmp_path_factory):
    """A sweep that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(words(adapter, tiny_folder, out)) == OK
    return out


def test_a_killed_sweep_ends_as_an_uninterrupted_one(adapter, tiny_folder, tmp_path, whole):
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-m", "snello.cli.main", *words(adapter, tiny_folder, out)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    records = out / "records.jsonl"
    deadline = time.monotonic() + 100
    while not (records.exists() and records.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = records.read_text().splitlines()
    assert 2 <= len(before) < 12
    assert not (out / "results.json").exists()
    with open(records, "a") as file:
        file.write(before[0][:60])  # as if the process had died in the middle of a line

    assert main(words(adapter, tiny_folder, out)) == OK
    assert records_of(out) == records_of(whole)
    killed, calm = (json.loads((folder / "results.json").read_text()) for folder in (out, whole))
    for part in ("settings", "cells", "contrasts", "baseline", "nominal_factor"):
        assert killed[part] == calm[part], part
    assert [line["session"] for line in killed["sessions"] if line["event"] == "start"] == [0, 1]
    sessions = {read_line(line).session for line in records.read_text().splitlines()}
    assert sessions == {0, 1}


def test_the_figures_say_what_was_asked_and_how(whole, adapter, tiny_folder):
    figures = json.loads((whole / "results.json").read_text())
    assert figures["baseline"] == f"{tiny_folder}@dense"
    assert figures["nominal_factor"] == {f"{adapter}@dms": 2.0, f"{tiny_folder}@dense": None}
    start = figures["sessions"][0]
    assert {"command", "commit", "seed", "torch", "date"} <= start.keys()
    cells = {
        (cell["contender"], cell["length_tokens"], cell["threads"]): cell
        for cell in figures["cells"]
    }
    assert len(cells) == 2 * 2 * 2
    dense, slim = cells[f"{tiny_folder}@dense", 24, 2], cells[f"{adapter}@dms", 24, 2]
    assert dense["factor"] == 1.0
    assert slim["factor"] > 1.3
    assert slim["kv_reads_tokens"] < dense["kv_reads_tokens"]
    assert slim["peak_live_tokens"] < dense["peak_live_tokens"]
    rows = list(csv.DictReader((whole / "cells.csv").read_text().splitlines()))
    assert len(rows) == len(cells)
    assert 0 < slim["kv_read_bytes"] < dense["kv_read_bytes"]
    assert dense["kv_read_bytes"] == dense["kv_reads_tokens"] * 4 * (16 * 4 + 5)
    (closed,) = (
        line
        for line in figures["sessions"]
        if line["event"] == "close" and line["contender"].endswith("dense")
    )
    assert {"cpu_joules", "gpu_joules"} <= closed.keys()
    assert figures["groups"] == []
    assert float(rows[0]["kv_reads_tokens"]) == figures["cells"][0]["kv_reads_tokens"]


def test_the_page_and_the_portraits_are_there(whole, adapter):
    portraits = json.loads((whole / "portraits.json").read_text())
    assert portraits["texts"] == 3
    assert [len(heads) for heads in portraits["heads"].values()] == [4]
    page = (whole / "report.html").read_text()
    assert page.count('class="spark"') == 4
    assert "What each head keeps" in page
    assert page.count("accuracy over KV reads") == 1


def test_a_finished_sweep_is_not_computed_again(whole, adapter, tiny_folder):
    names = ("records.jsonl", "portraits.json", "cells.csv")
    before = [(whole / name).read_bytes() for name in names]
    stamp = (whole / "portraits.json").stat().st_mtime_ns
    assert main(words(adapter, tiny_folder, whole)) == OK
    assert [(whole / name).read_bytes() for name in names] == before
    assert (whole / "portraits.json").stat().st_mtime_ns == stamp


def test_a_shorter_sweep_has_the_figures_of_the_longer_one_cut(
    whole, adapter, tiny_folder, tmp_path
):
    """Length 8 alone, computed, is length 8 of the sweep to 40, cut."""
    out = tmp_path / "short"
    assert main([*words(adapter, tiny_folder, out), "--lengths", "8"]) == OK
    short = json.loads((out / "results.json").read_text())["cells"]
    cut = json.loads((whole / "results.json").read_text())["cells"]
    assert short == [cell for cell in cut if cell["length_tokens"] == 8]


def test_a_grid_keeps_length_and_depth_of_each_question(tiny_folder, tmp_path):
    """Lengths are those of the first contender's tokenizer; a task keeps the name it was given."""
    out = tmp_path / "grid"
    name = "ledger-needle:lengths=150/200,depths=0/100,samples=2"
    command = ["evaluate", str(tiny_folder), "--out", str(out), "--tasks", name, "--policies"]
    assert main([*command, "dense", "window:tokens=9", "--lengths", "4"]) == OK
    figures = json.loads((out / "results.json").read_text())
    assert figures["settings"]["tasks"] == [name]
    groups = figures["groups"]
    places = [(150, 0), (150, 100), (200, 0), (200, 100)]
    assert [(group["question_tokens"], group["depth_percent"]) for group in groups] == places * 2
    assert {group["questions"] for group in groups} == {2}
    rows = list(csv.DictReader((out / "groups.csv").read_text().splitlines()))
    assert len(rows) == len(groups)
    assert (out / "report.html").read_text().count('class="heat"') == 2


def test_a_matched_window_is_as_large_as_the_learned_contender(adapter, tiny_folder, tmp_path):
    out = tmp_path / "matched"
    assert (
        main([*words(adapter, tiny_folder, out), "--policies", "dms", "window:tokens=match"]) == OK
    )
    cells = json.loads((out / "results.json").read_text())["cells"]
    peaks = {
        cell["contender"]: cell["peak_live_tokens"]
        for cell in cells
        if (cell["length_tokens"], cell["threads"]) == (24, 1)
    }
    slim, window = peaks[f"{adapter}@dms"], peaks[f"{adapter}@window:tokens=match"]
    assert 0 <= window - slim < 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "1"], "was begun with seed 0, and now it is 1"),
        (["--threads", "1", "4"], "was begun with threads [1, 2], and now it is [1, 4]"),
        (["--policies", "dms:window=3"], "was begun with contenders"),
        (["--tasks", "riddles"], "unknown task 'riddles'"),
        (["--tasks", "ledger:size=3"], "the task 'ledger' has no setting 'size'"),
        (["--tasks", "math500:source=/nowhere/rows.jsonl"], "there is no file /nowhere/rows.jsonl"),
        (
            ["--tasks", "math500:source={rows}"],
            "the columns are 'q', 'a'; the task needs 'problem'",
        ),
        (["--tasks", "needle:lengths=9"], "a prompt of 9 tokens was asked for"),
        (["--level", "2"], "was begun with questions"),
        (["--threads", "2", "1"], "threads is 2 1; give counts of at least 1, each once"),
        (["--lengths", "0", "4"], "lengths is 0 4; give counts"),
        (["--questions", "0"], "questions is 0; it must be at least 1"),
        (["--policies", "huge"], "names the policy 'huge'"),
        (["--policies", "dms", "dms"], "takes part twice"),
        (["--baseline", "bundled"], "--contenders bundled@dense"),
        (["--contenders", "/nowhere@dense"], "/nowhere"),
        (["--contenders", "bundled@dms"], "bundled@dms: sparse memory was asked for, but"),
        (["--contenders", "bundled@dense+survivors=int8"], "but dense memory has no window"),
    ],
)
def test_mistakes_get_one_line_and_change_nothing(
    more, message, whole, adapter, tiny_folder, tmp_path, capsys
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": "1 + 1?", "a": "2"}\n')
    more = [word.format(rows=rows) for word in more]
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert main([*words(adapter, tiny_folder, whole), *more]) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_model_whose_files_changed_does_not_go_on(whole, adapter, tiny_folder, capsys):
    card = adapter / CARD
    text = card.read_text()
    card.write_text(text.replace('"factor": 2.0', '"factor": 3.0'))
    try:
        assert main(words(adapter, tiny_folder, whole)) == MISTAKE
    finally:
        card.write_text(text)
    assert "was begun with models" in capsys.readouterr().err


def test_flags_of_a_sweep_need_a_folder(capsys):
    assert main(["evaluate", "bundled", "--threads", "1", "2"]) == MISTAKE
    assert "threads is part of a sweep" in capsys.readouterr().err
