"""`snello generate`, from the command's words to the texts, the table and the JSON file."""

import json

import pytest

from snello.cli.generate import read_prompts
from snello.cli.main import main

SHORT = ["--max-new-tokens", "6"]


def test_prints_text_and_figures_and_writes_json(tiny_adapter, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["generate", str(tiny_adapter), "--prompt", "heron holds 3.", "otter", *SHORT]
    assert main([*words, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["memory"] == "sparse"
    assert figures["window_tokens"] == 6
    assert len(figures["completions"]) == 2
    for row in figures["completions"]:
        assert row["text"].strip() in printed
        assert row["generated_tokens"] == len(row["token_ids"]) <= 6
        assert row["factor"] >= 1
        assert row["peak_bytes"] > 0
    assert "tokens/s" in printed


def test_a_file_of_prompts_gives_what_the_flags_give(tiny_folder, tmp_path):
    prompts, first, second = tmp_path / "p.jsonl", tmp_path / "1.json", tmp_path / "2.json"
    lines = ["heron", {"prompt": "heron"}, {"messages": [{"role": "user", "content": "heron"}]}]
    prompts.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    model = str(tiny_folder)
    assert main(["generate", model, "--prompts", str(prompts), *SHORT, "--json", str(first)]) == 0
    assert main(["generate", model, "--prompt", "heron", *SHORT, "--json", str(second)]) == 0
    (alone,) = json.loads(second.read_text())["completions"]
    for row in json.loads(first.read_text())["completions"]:
        assert row["token_ids"] == alone["token_ids"]


def test_raw_prompts_are_not_wrapped(tiny_folder, tmp_path):
    out = tmp_path / "out.json"
    words = ["generate", str(tiny_folder), "--prompt", " heron", "--raw", *SHORT]
    assert main([*words, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["completions"][0]["prompt_tokens"] == 1


@pytest.mark.parametrize("memory", ["dense", "window"])
def test_memory_can_be_chosen(tiny_adapter, tmp_path, memory):
    out = tmp_path / "out.json"
    words = ["generate", str(tiny_adapter), "--prompt", "the otter rests near the river. heron"]
    assert main([*words, "--memory", memory, *SHORT, "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    (row,) = figures["completions"]
    assert figures["memory"] == memory
    assert (row["factor"] == 1) == (memory == "dense")
    assert (row["peak_live_tokens"] == 7) == (memory == "window")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "has no prompt; give --prompt TEXT"),
        (["--prompt", "x", "--memory", "sparse"], "has not learned what to forget"),
        (["--prompt", "x", "--memory", "window"], "window memory needs window_tokens"),
        (["--prompt", "x", "--window-tokens", "9"], "dense memory has no window"),
        (["--prompt", "x", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt", "x", "--base", "/nowhere/at/all", "--device", "cuda"], "device is 'cuda'"),
    ],
)
def test_mistakes_get_one_line(tiny_folder, capsys, words, message):
    assert main(["generate", str(tiny_folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no prompts"),
        ("{", "line 1 is not JSON"),
        ('"fine"\n7', "line 2 is no prompt"),
        ('{"messages": [{"role": "user"}]}', "line 1 is no prompt"),
    ],
)
def test_a_bad_prompts_file_names_the_line(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_requests_that_cannot_fit_are_told_after_the_figures(tiny_folder, tmp_path, capsys):
    """One MiB is 3 pages of 4,096 slots, and a sequence of this model needs one for each head."""
    out = tmp_path / "out.json"
    words = ["generate", str(tiny_folder), "--prompt", "heron", *SHORT, "--json", str(out)]
    assert main([*words, "--kv-memory-mib", "1", "--page-tokens", "4096"]) == 2
    printed = capsys.readouterr()
    assert "1 of 1 requests were refused: a request with" in printed.err
    assert "refused" in printed.out
    (row,) = json.loads(out.read_text())["completions"]
    assert row["finish_reason"] == "refused"


def test_a_prompt_longer_than_the_context_is_refused(tiny_folder, capsys):
    assert main(["generate", str(tiny_folder), "--prompt", "heron " * 300, *SHORT]) == 2
    assert "the model's context holds 256" in capsys.readouterr().err
