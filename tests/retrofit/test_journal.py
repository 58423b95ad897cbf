"""The log of a run: each due row once, in both forms."""

import pytest

from snello.retrofit import trainer
from snello.retrofit.runfolder import RunFolder


def test_tensorboard_reads_back_what_was_logged(recipe):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    rows = []
    config = recipe(steps=4, ramp_steps=2)
    trainer.run(config, on_row=rows.append)
    (file,) = (config.out / "tensorboard").iterdir()
    seen = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert len(rows) == 4
    for row in rows:
        assert seen[row.step, "retrofit/kl"] == pytest.approx(row.kl)


def test_rows_are_logged_when_due_and_at_both_ends(recipe):
    rows = []
    trainer.run(recipe(log_every_steps=3), on_row=rows.append)
    assert [row.step for row in rows] == [1, 3, 6, 8]


def test_trimming_keeps_what_is_known_and_drops_what_was_cut_short(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        folder.append_log({"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    folder.trim_log(3)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
