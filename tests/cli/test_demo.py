"""The whole demo on a tiny model: retrofit, three memories, a page, figures; and going on."""

import json
import math

import pytest

from snello.cli import demo
from snello.cli.main import INTERRUPTED, MISTAKE, OK, main
from snello.cli.origin import find_commit
from snello.config.demo import DemoConfig
from tests.evaluation.tiny import write_tiny

WORDS = ["--problems", "3", "--steps", "2", "--window-tokens", "8", "--seed", "4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of one demo, and what it said."""
    home = tmp_path_factory.mktemp("demo")
    base = write_tiny(home / "tiny")
    words = ["demo", "--base", str(base), *WORDS, "--out", str(home / "out")]
    assert main([*words, "--json", str(home / "figures.json")]) == OK
    return home


def test_a_demo_leaves_a_page_its_figures_and_the_model(made):
    page = (made / "out" / "report.html").read_text()
    figures = json.loads((made / "out" / "results.json").read_text())
    assert (made / "out" / "model" / "sparsity_config.json").exists()
    assert "3 ledger problems of level 1" in page
    assert page.partition('id="curve-title"')[2].count("<polyline") == 3
    assert page.count('class="spark"') == 4
    assert figures == json.loads((made / "figures.json").read_text())
    assert [row["memory"] for row in figures["memories"]] == ["dense", "sparse", "window"]
    assert figures["origin"]["seed"] == "4"
    assert figures["demo_s"] > figures["retrofit_s"] > 0


def test_nothing_temporary_is_left(made):
    assert {path.name for path in (made / "out").iterdir()} == {
        "model",
        "report.html",
        "results.json",
    }


def test_the_three_memories_are_dense_sparse_and_a_window_of_equal_size(made):
    dense, sparse, window = json.loads((made / "figures.json").read_text())["memories"]
    assert dense["factor"] == 1.0
    assert sparse["window_tokens"] == 8
    assert window["window_tokens"] == math.ceil(sparse["peak_live_tokens"]) - 1
    assert window["peak_live_tokens"] <= window["window_tokens"] + 1


def test_a_second_demo_with_other_settings_is_refused(made, capsys):
    words = ["demo", "--base", str(made / "tiny"), *WORDS, "--out", str(made / "out")]
    assert main([*words, "--factor", "4"]) == MISTAKE
    assert capsys.readouterr().err.count("snello: error: ") == 1


def test_a_base_that_is_not_there_leaves_nothing(tmp_path, capsys):
    words = ["demo", "--base", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main(words) == MISTAKE
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_level_is_refused_before_any_work(tmp_path, capsys):
    assert main(["demo", "--level", "9", "--out", str(tmp_path / "out")]) == MISTAKE
    assert "level is 9; it must be one of 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_retrofit_ends_as_interrupted(tmp_path, capsys, monkeypatch):
    class Stopped:
        is_finished = False

    monkeypatch.setattr(demo.trainer, "run", lambda *_, **__: Stopped())
    assert main(["demo", "--out", str(tmp_path / "out")]) == INTERRUPTED
    assert "stopped by Ctrl-C" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 2, 5, 200, 1000])
def test_the_recipe_suits_any_number_of_steps(steps):
    recipe = demo.choose_recipe(DemoConfig(steps=steps))
    assert 1 <= recipe.ramp_steps <= steps
    assert recipe.factor == 8.0


def test_problems_of_the_demo_are_never_trained_on():
    recipe = demo.choose_recipe(DemoConfig())
    last = recipe.mixture.first_seed + recipe.steps * recipe.rows * recipe.accumulation
    assert last < min(demo.pose_fresh(50, kinds=demo.KINDS, levels=(1,), seed=0), key=seed_of).seed


def seed_of(problem):
    return problem.seed


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert find_commit(tmp_path) == "unknown: not a git checkout"
