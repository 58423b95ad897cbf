"""`snello inspect`: kept fractions that agree with the live positions."""

import json

import pytest

from snello.bundled.problems import pose
from snello.cli.main import main

TEXT = "the calm otter rests near the river. heron holds 3. what is heron + otter?"


def inspect(tmp_path, *words):
    out = tmp_path / "inspect.json"
    assert main(["inspect", *map(str, words), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_fractions_agree_with_the_positions(tiny_adapter, tmp_path, capsys):
    figures = inspect(tmp_path, tiny_adapter, "--text", TEXT)
    num_tokens = figures["tokens"]
    live = figures["live_positions"]
    assert len(figures["texts"]) == num_tokens
    assert [len(layer) for layer in live] == [2, 2]
    for layer, kept in zip(live, figures["kept_fraction"], strict=True):
        for positions, fraction in zip(layer, kept, strict=True):
            assert fraction == pytest.approx(len(positions) / num_tokens)
            assert positions[-7:] == list(range(num_tokens - 7, num_tokens))
    assert figures["factor"] > 1.1
    printed = capsys.readouterr().out
    assert f"{figures['kept_fraction'][0][0]:.1%}" in printed
    assert f"measured factor {figures['factor']:.2f}" in printed


def test_every_head_has_a_portrait(tiny_adapter, tmp_path, capsys):
    figures = inspect(tmp_path, tiny_adapter, "--text", TEXT)
    heads = [(portrait["layer"], portrait["head"]) for portrait in figures["portraits"]]
    assert heads == [(0, 0), (0, 1), (1, 0), (1, 1)]
    behind = figures["tokens"] - 7
    for portrait in figures["portraits"]:
        live = figures["live_positions"][portrait["layer"]][portrait["head"]]
        assert portrait["kept_fraction"] == pytest.approx((len(live) - 7) / behind)
        assert portrait["live_tokens"][-1] == len(live)
    printed = capsys.readouterr().out
    assert "what each head keeps" in printed
    assert figures["portraits"][0]["pattern"].split()[0] in printed


def test_a_file_gives_what_its_text_gives(tiny_adapter, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    from_file = inspect(tmp_path, tiny_adapter, "--file", source)
    assert from_file == inspect(tmp_path, tiny_adapter, "--text", TEXT)


def test_dense_memory_keeps_all(tiny_folder, tmp_path):
    figures = inspect(tmp_path, tiny_folder, "--text", TEXT)
    assert figures["factor"] == 1.0
    assert figures["portraits"] == []


def test_a_problem_is_read_with_the_reply_that_solves_it(tmp_path):
    figures = inspect(tmp_path, "bundled", "--problem", "--kind", "chain_sum", "--seed", 2)
    problem = pose("chain_sum", level=1, seed=2)
    text = "".join(figures["texts"])
    assert problem.question in text
    assert text.endswith(problem.reply)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "has 0 sources of text; give exactly one"),
        (["--text", "a", "--problem"], "has 2 sources of text"),
        (["--text", ""], "the text has no tokens"),
        (["--text", "heron " * 300], "the model's context holds 256"),
        (["--problem", "--kind", "riddle"], "unknown kind of problem 'riddle'; known: ledger"),
        (["--file", "/nowhere/at/all"], "No such file or directory"),
    ],
)
def test_mistakes_get_one_line(tiny_folder, capsys, words, message):
    assert main(["inspect", str(tiny_folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
