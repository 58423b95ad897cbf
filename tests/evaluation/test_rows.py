"""Rows from files in each format, under the columns of public data sets, in a seeded order."""

import gzip
import json

import pytest

from snello.evaluation.rows import arrange, load_rows

ROWS = [{"problem": "1 + 1?", "answer": 2, "more": "x"}, {"problem": "a,\u2028b\n?", "answer": 3}]
FIELDS = {"problem": ("problem", "question"), "answer": ("answer",)}
WANTED = [{"problem": row["problem"], "answer": row["answer"]} for row in ROWS]


def write(folder, name):
    path = folder / name
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    texts = {
        "rows.jsonl": lines,
        "lines.json": lines,
        "rows.json": json.dumps(ROWS),
        "rows.csv": 'problem,answer\n1 + 1?,2\n"a,\u2028b\n?",3\n',
    }
    plain = texts[name.removesuffix(".gz")].encode()
    path.write_bytes(gzip.compress(plain) if name.endswith(".gz") else plain)
    return str(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "rows.json", "rows.jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    assert load_rows(write(tmp_path, name), FIELDS) == WANTED


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_csv_gives_texts(tmp_path, name):
    rows = load_rows(write(tmp_path, name), FIELDS)
    assert rows == [{**row, "answer": str(row["answer"])} for row in WANTED]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(WANTED), path)
    assert load_rows(str(path), FIELDS) == WANTED
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="not a whole parquet file"):
        load_rows(str(path), FIELDS)


def test_a_column_inside_another_is_found(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"prompt": [{"content": "why?"}], "reward_model": {"ground_truth": "7"}}')
    fields = {"problem": ("problem", "prompt.0.content"), "answer": ("reward_model.ground_truth",)}
    assert load_rows(str(path), fields) == [{"problem": "why?", "answer": "7"}]
    with pytest.raises(ValueError, match=r"needs 'prompt.1.content'"):
        load_rows(str(path), {"problem": ("prompt.1.content",)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"question": "why?"}', r"row 1: the columns are 'question'; the task needs 'answer'"),
        ('{"problem": "a", "answer": null}', r"the task needs 'answer'"),
        ("[1]", "row 1: a row is int; it must be an object"),
        ("\n{oops\n", "line 2: not a JSON object"),
        ("[oops", "no JSON list"),
        ("", "holds no rows"),
    ],
)
def test_bad_rows_are_told_of_in_one_line(tmp_path, text, expected):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=expected) as caught:
        load_rows(str(path), FIELDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.jsonl", None, "there is no file"),
        ("rows.txt", b"x", "of no known format; give .jsonl"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read"),
        ("rows.jsonl", b"\xff\xfe\xfa", "cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, expected):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        load_rows(str(path), FIELDS)


def test_a_name_that_is_no_file_is_looked_for_on_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return [{"question": "why?", "answer": 1}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = load_rows("somebody/rows", FIELDS, split="train", config="main")
    assert found == [{"problem": "why?", "answer": 1}]
    load_rows("hf://datasets/somebody/rows/a.jsonl", FIELDS)
    assert asked == [
        (("somebody/rows", "main"), {"split": "train"}),
        (("json",), {"data_files": "hf://datasets/somebody/rows/a.jsonl", "split": "train"}),
    ]

    def refuse(*args, **options):
        raise ConnectionError("no way there")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"the hub did not give .* \(no way there\)"):
        load_rows("somebody/rows", FIELDS)


def test_the_seed_alone_decides_on_the_order():
    items = list(range(50))
    assert arrange(items, 5, 3) == arrange(items, None, 3)[:5]
    assert arrange(items, None, 3) != arrange(items, None, 4)
    assert sorted(arrange(items, None, 3)) == items


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} questions were asked for; the task has 3"):
        arrange([1, 2, 3], count, 0)
