"""`snello quantize` and `--weights`: the same tokens from the folder and on loading; refusals."""

import json

import pytest

from snello.cli.main import main

PROMPT = "otter holds 3. heron = otter + 2. what is heron?"


def generate(tmp_path, *words):
    out = tmp_path / "generate.json"
    flags = ["--prompt", PROMPT, "--max-new-tokens", "12", "--json", str(out)]
    assert main(["generate", *map(str, words), *flags]) == 0
    return json.loads(out.read_text())["completions"][0]["token_ids"]


def test_a_folder_answers_as_its_original_quantized_on_loading(tmp_path, capsys):
    folder, figures = tmp_path / "slim", tmp_path / "figures.json"
    words = ["--weights", "int4", "--group", "32", "--out", str(folder), "--json", str(figures)]
    assert main(["quantize", "bundled", *words]) == 0
    assert "int4" in capsys.readouterr().out
    told = json.loads(figures.read_text())
    assert told["written_bytes"] < 0.3 * told["original_bytes"]
    assert 0.05 < told["relative_error"] < 0.15
    on_loading = generate(tmp_path, "bundled", "--weights", "int4", "--weights-group", "32")
    assert generate(tmp_path, folder) == on_loading


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", "bundled", "--out", "{used}"], "is not empty; --out must name a folder that"),
        (["quantize", "bundled", "--out", "{used}/file"], "is a file; --out must name a folder"),
        (
            ["quantize", "{tiny}", "--out", "{new}"],
            "has 32 inputs, which is no multiple of the group 64",
        ),
        (["quantize", "bundled", "--weights", "int3", "--out", "{new}"], "'int8', 'int4'"),
        (
            ["generate", "{tiny}", "--weights", "int8", "--weights-group", "32", "--prompt", "a"],
            "down_proj.weight has 48 inputs, which is no multiple of the group 32",
        ),
        (["generate", "bundled", "--weights-group", "48", "--prompt", "a"], "('32', '64', '128')"),
    ],
)
def test_mistakes_get_one_line(words, message, tiny_folder, tmp_path, capsys):
    used, new = tmp_path / "used", tmp_path / "new"
    used.mkdir()
    (used / "file").write_text("mine")
    assert main([word.format(used=used, new=new, tiny=tiny_folder) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not new.exists()
    assert (used / "file").read_text() == "mine"
