"""The tables of what narrow survivors cost and save, at a tiny size."""

from benchmarks import survivors


def read_tables(text):
    """Rows of each table by their cells."""
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in blocks
    ]


def test_tables_say_what_is_lost_and_what_is_saved(capsys, monkeypatch):
    monkeypatch.setattr(survivors, "DECODED_TOKENS", 5)
    survivors.main(["--problems", "1", "--tokens", "1200"])
    model, head = read_tables(capsys.readouterr().out)
    losses = {(row[0], row[1]): float(row[2]) for row in model}
    factors = {(row[0], row[1]): float(row[5]) for row in model}
    assert losses["float32", "same"] == 0
    assert losses["float32", "int8"] < losses["float32", "fp8"] < losses["float32", "int4"] < 1e-3
    narrower = [factors["bfloat16", form] for form in ("same", "fp8", "int4")]
    assert narrower == sorted(narrower)
    limits = {row[0]: float(row[4]) for row in head}
    assert limits["int4"] > 30 > 2 * limits["same"]
    combined = {row[0]: (float(row[2]), float(row[3])) for row in head}
    assert combined["same"][0] < combined["int8"][0] < combined["int4"][0] < combined["int4"][1]
