"""A run that was killed or stopped ends with the bits of the one that was not."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch

from snello.retrofit import trainer
from snello.retrofit.runfolder import LOG, STATE, check_folder


def weights_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def train_in_child(config):
    torch.set_num_threads(1)  # a forked child must not wake its parent's thread pool
    trainer.run(config, on_row=lambda _row: time.sleep(0.05))


@pytest.mark.parametrize(
    "changes",
    [{"train": "all"}, {"train": "lora"}, {"variant": "borrowed", "fade_steps": 6, "steps": 14}],
    ids=["all", "lora", "borrowed"],
)
def test_kill_nine_in_the_middle_changes_no_bit_of_the_result(recipe, tmp_path, changes):
    straight = recipe(out=tmp_path / "straight", **changes)
    killed = recipe(out=tmp_path / "killed", save_every_steps=3, **changes)
    trainer.run(straight)
    child = multiprocessing.get_context("fork").Process(target=train_in_child, args=(killed,))
    child.start()
    deadline = time.monotonic() + 60
    while not (killed.out / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    step = torch.load(killed.out / STATE, weights_only=True)["step"]
    assert 0 < step < killed.steps
    assert trainer.run(killed).is_finished
    assert weights_of(straight.out) == weights_of(killed.out)
    cards = [(folder / "sparsity_config.json").read_text() for folder in (straight.out, killed.out)]
    assert cards[0] == cards[1]
    rows = [
        [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
        for folder in (straight.out, killed.out)
    ]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]


def test_ctrl_c_finishes_the_step_saves_and_the_same_command_goes_on(recipe, tmp_path):
    straight, stopped = recipe(out=tmp_path / "straight"), recipe(out=tmp_path / "stopped")
    trainer.run(straight)

    def press(row):
        if row.step == 5:
            signal.raise_signal(signal.SIGINT)

    outcome = trainer.run(stopped, on_row=press)
    assert not outcome.is_finished
    assert torch.load(stopped.out / STATE, weights_only=True)["step"] == outcome.step == 6
    assert not (stopped.out / "sparsity_config.json").exists()
    assert trainer.run(stopped).is_finished
    assert weights_of(straight.out) == weights_of(stopped.out)


def test_a_folder_of_other_settings_or_of_something_else_is_refused_in_one_line(recipe, tmp_path):
    config = recipe(steps=2, ramp_steps=2)
    trainer.run(config)
    with pytest.raises(ValueError, match=r"holds a run with factor = 4.0, and this one has 2.0"):
        trainer.run(recipe(steps=2, ramp_steps=2, factor=2.0))
    check_folder(recipe(steps=2, ramp_steps=2, log_every_steps=7, save_every_steps=9))
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("a cat")
    with pytest.raises(ValueError, match="is not the folder of a retrofit"):
        trainer.run(recipe(out=other))
    with pytest.raises(ValueError, match="is a file"):
        trainer.run(recipe(out=other / "cat.jpg"))
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]


def test_a_damaged_state_is_told_of_in_one_line(recipe):
    config = recipe(steps=2, ramp_steps=2)
    trainer.run(config)
    whole = (config.out / STATE).read_bytes()
    (config.out / STATE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state.pt is damaged .* start anew") as caught:
        trainer.run(config)
    assert "\n" not in str(caught.value)


def test_temporary_files_of_a_killed_writing_do_not_stand_in_the_way(recipe):
    config = recipe(steps=2, ramp_steps=2)
    trainer.run(config)
    (config.out / ".state.pt.abc").write_bytes(b"half")
    assert trainer.run(config).is_finished
    assert not (config.out / ".state.pt.abc").exists()
