"""`snello retrofit` from the command line: figures at the end, and one line for what is wrong."""

import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from snello.cli.main import INTERRUPTED, MISTAKE, OK, main
from snello.models import whole
from snello.models.adapter import load_model
from snello.retrofit import runfolder, trainer
from snello.retrofit.runfolder import SETTINGS
from snello.retrofit.traces import TRACES


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"text": " ".join(str((n * i) % 10) for i in range(40))} for n in range(1, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def base(tiny_folder, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "base")


@pytest.fixture
def words(base, data, tmp_path):
    """The words of a command that would go well."""
    flags = {
        "--out": tmp_path / "run",
        "--data": data,
        "--factor": 3,
        "--window": 4,
        "--steps": 3,
        "--rows": 2,
        "--accumulation": 1,
        "--sequence-tokens": 32,
        "--precision": "float32",
    }
    pairs = [str(word) for pair in flags.items() for word in pair]
    return lambda *more: ["retrofit", str(base), *pairs, *map(str, more)]


def refusal(capsys, words):
    """The one line that a refused command gets."""
    assert main(words) == MISTAKE
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_retrofit_leaves_an_adapter_and_its_figures(words, tmp_path, capsys):
    assert main(words("--json", tmp_path / "figures.json")) == OK
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["steps"] == 3
    assert figures["measured_factor"] >= 1.0
    assert "measured factor" in capsys.readouterr().out
    card = load_model(tmp_path / "run").card
    assert card is not None
    assert card.provenance["origin"]["command"]
    assert not list((tmp_path / "run").rglob(".*"))


def spoil_weights(base, change):
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def truncate(base):
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def corrupt(base):
    (base / "model.safetensors").write_bytes(b"\xff" * 1000)


def poison(base):
    spoil_weights(base, lambda w: w["model.norm.weight"].fill_(torch.nan))


def reshape(base):
    spoil_weights(base, lambda w: w.update({"model.norm.weight": torch.ones(7)}))


def rename_family(base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "abacus"}))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (truncate, "truncated or damaged"),
        (corrupt, "truncated or damaged"),
        (poison, "NaN or Inf"),
        (reshape, "has shape (7,)"),
        (rename_family, "abacus"),
        (lambda base: (base / "config.json").unlink(), "config.json"),
        (lambda base: (base / "config.json").write_text("{"), "config.json"),
        (lambda base: (base / "tokenizer.json").unlink(), "tokenizer"),
    ],
    ids=["truncated", "corrupt", "nan", "shape", "family", "no config", "bad config", "tokenizer"],
)
def test_a_bad_base_gets_one_line_and_leaves_nothing(
    words, base, tmp_path, capsys, spoil, complaint
):
    spoil(base)
    assert complaint in refusal(capsys, words())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "holds no record"), ('{"text": "1"}\nnonsense\n', "line 2: not a JSON object")],
)
def test_bad_data_gets_one_line_and_leaves_nothing(
    words, data, tmp_path, capsys, content, complaint
):
    data.write_text(content)
    assert complaint in refusal(capsys, words())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--factor", "0.125"), "write 8, not 0.125"),
        (("--window", "64"), "nothing would ever leave the window"),
        (("--steps", "0"), "must be at least 1"),
        (("--ramp-steps", "9"), "--steps 9 or more"),
        (("--learning-rate", "-1"), "must be above 0"),
        (("--betas", "0.9", "1.5"), "below 1"),
        (("--train", "everything"), "train"),
        (("--variant", "borrowed", "--train", "lora", "--lora.targets", "v_proj"), "q_proj"),
        (("--train", "lora", "--lora.targets", "w_proj"), "known: "),
    ],
)
def test_bad_settings_are_refused_before_any_work(words, tmp_path, capsys, flags, complaint):
    assert complaint in refusal(capsys, words(*flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_full_disk_gets_one_line_and_nothing_half_written(
    words, tmp_path, capsys, monkeypatch, nth
):
    """Writings are, in order: the settings, the state, the weights, the card."""
    written = []
    original = whole.os.fsync

    def fill(descriptor):
        written.append(descriptor)
        if len(written) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(whole.os, "fsync", fill)
        line = refusal(capsys, words())
    assert "No space left on device" in line
    assert "free some space" in line
    assert (tmp_path / "run").exists() == (nth > 1)
    assert not list((tmp_path / "run").rglob(".*"))
    assert not (tmp_path / "run" / "sparsity_config.json").exists()
    assert main(words()) == OK


def test_ctrl_c_says_how_to_go_on(words, tmp_path, capsys, monkeypatch):
    step = trainer.Trainer._take_step

    def press(self, stop):
        stop.is_asked = self.step == 1
        return step(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_take_step", press)
        assert main(words()) == INTERRUPTED
    assert "stopped after step 2 of 3; the same command goes on" in capsys.readouterr().out
    assert main(words()) == OK


def test_other_settings_in_the_same_folder_are_refused(words, capsys):
    assert main(words()) == OK
    capsys.readouterr()
    assert "holds a run with seed = 0, and this one has 5" in refusal(capsys, words("--seed", "5"))


def test_the_base_writes_its_own_replies_once(words, tmp_path, capsys):
    flags = ("--replies", "base", "--traces.max-reply-tokens", "6", "--traces.batch-sequences", "3")
    assert main(words(*flags)) == OK
    rows = [json.loads(line) for line in (tmp_path / "run" / TRACES).read_text().splitlines()]
    assert len(rows) == 8
    assert all(1 <= len(row["reply_ids"]) <= 6 for row in rows)
    before = (tmp_path / "run" / TRACES).read_bytes()
    shutil.move(tmp_path / "run", tmp_path / "first")
    assert main(words(*flags)) == OK
    assert (tmp_path / "run" / TRACES).read_bytes() == before
    assert (tmp_path / "run" / SETTINGS).exists()


def test_settings_are_written_before_anything_else(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        runfolder, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "x"))
    )
    assert main(words()) == MISTAKE
    assert not (tmp_path / "run").exists()
