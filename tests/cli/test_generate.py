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


def test_every_wish_can_be_written_on_the_command_line(tiny_adapter, tmp_path):
    """A bias of 100 all but forces token 20, and the least length bans the stop token 21."""
    out = tmp_path / "out.json"
    words = ["generate", str(tiny_adapter), "--prompt", "heron", "otter", *SHORT]
    wishes = ["--n", "3", "--temperature", "1", "--seed", "4", "--logprobs", "--top-logprobs", "2"]
    biased = ["--logit-bias", "20", "100", "21", "-100", "--stop-token-ids", "21", "22"]
    more = ["--min-new-tokens", "6", "--ignore-eos", "--repetition-penalty", "1.01"]
    assert main([*words, *wishes, *biased, *more, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["completions"]
    places = [(row["request"], row["sample"]) for row in rows]
    assert places == [(request, sample) for request in range(2) for sample in range(3)]
    for row in rows:
        assert row["token_ids"] == [20] * 6
        assert row["finish_reason"] == "length"
        assert [place["token_id"] for place in row["logprobs"]] == row["token_ids"]
        assert all(len(place["top"]) == 2 for place in row["logprobs"])


def test_a_stop_string_ends_and_cuts_the_text(tiny_adapter, tmp_path, capsys):
    whole, cut = tmp_path / "1.json", tmp_path / "2.json"
    words = ["generate", str(tiny_adapter), "--prompt", "heron", "--ignore-eos", *SHORT]
    assert main([*words, "--json", str(whole)]) == 0
    text = json.loads(whole.read_text())["completions"][0]["text"]
    assert main([*words, "--stop", "nowhere in it", text[3:6], "--json", str(cut)]) == 0
    (row,) = json.loads(cut.read_text())["completions"]
    assert row["text"] == text[: text.index(text[3:6])]
    assert (row["finish_reason"], row["stop_reason"]) == ("stop", text[3:6])


def test_several_replies_are_named_after_their_prompt(tiny_adapter, capsys):
    words = ["generate", str(tiny_adapter), "--prompt", "heron", "otter", "--n", "2", *SHORT]
    assert main([*words, "--temperature", "1"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in ("1.1", "1.2", "2.1", "2.2") if f"[{name}]" in printed] == [
        "1.1",
        "1.2",
        "2.1",
        "2.2",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x", "--logit-bias", "5", "400"], "logit_bias is {5: 400.0}"),
        (["--prompt", "x", "--logit-bias", "99999", "1"], "logit_bias has token id 99999"),
        (["--prompt", "x", "--top-logprobs", "3"], "top_logprobs is 3 while logprobs is off"),
        (["--prompt", "x", "--stop", ""], "stop is ('',); it must be texts"),
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


def test_what_left_the_window_may_be_stored_narrow(tiny_adapter, tmp_path):
    """With short heads of 8 numbers a page keeps more beside them, and holds four times as many."""
    rows = []
    narrow = [["--survivors", form] for form in ("int8", "int4")]
    for i, words in enumerate(([], narrow[0], ["--kv-dtype", "bfloat16"], narrow[1])):
        out = tmp_path / f"{i}.json"
        words = ["--prompt", "the otter rests near the river. " * 6, *words, *SHORT]
        assert main(["generate", str(tiny_adapter), *words, "--json", str(out)]) == 0
        rows += json.loads(out.read_text())["completions"]
    assert all(row["generated_tokens"] == 6 for row in rows)
    for row in (rows[1], rows[3]):
        assert row["peak_live_tokens"] == pytest.approx(rows[0]["peak_live_tokens"], rel=0.1)
    assert rows[2]["peak_bytes"] < 0.7 * rows[0]["peak_bytes"]


def test_narrow_survivors_of_dense_memory_are_refused_in_one_line(tiny_folder, capsys):
    words = ["generate", str(tiny_folder), "--prompt", "heron", "--survivors", "int8"]
    assert main(words) == 2
    message = capsys.readouterr().err.strip()
    assert "survivors is 'int8', but dense memory has no window" in " ".join(message.split())
