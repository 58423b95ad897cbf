"""`snello evaluate --perplexity`: each contender's nats, as plain scoring gives them."""

import json
import math

import pytest

from snello.cli.main import MISTAKE, OK, main
from tests.evaluation.tiny import open_tiny, write_tiny

TEXT = "the amber bell rests near the mill. otter 3>home. " * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def evaluate(folder, text, *more):
    return main(["evaluate", str(folder), "--perplexity", str(text), *map(str, more)])


def test_dense_and_window_have_a_row_each(folder, text, tmp_path, capsys):
    out = tmp_path / "figures.json"
    words = ("--policies", "dense", "window:tokens=6", "--json", out)
    assert evaluate(folder, text, *words) == OK
    figures = json.loads(out.read_text())
    dense, window = figures["contenders"]
    served = open_tiny(folder, "dense")
    ids = served.codec.encode(TEXT)
    (scores,) = served.engine.score([ids])
    nats = -sum(score.logprob for score in scores)
    assert dense["contender"] == f"{folder}@dense"
    assert dense["nats_per_token"] == pytest.approx(nats / (len(ids) - 1))
    assert dense["nats_per_byte"] == pytest.approx(nats / len(TEXT))
    assert dense["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)))
    assert window["nats_per_token"] != dense["nats_per_token"]
    assert window["peak_bytes"] < dense["peak_bytes"]
    assert "nats per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--perplexity", "/nowhere.txt"], "/nowhere.txt cannot be read as UTF-8 text"),
        (["--perplexity-tokens", "1"], "the window is 1 tokens"),
        (["--policies", "huge"], "names the policy 'huge'"),
        (["--contenders", "bundled@dms"], "bundled@dms: sparse memory was asked for, but"),
        (["--contenders", "slim@dms", "bundled@window:tokens=match"], "is to match what another"),
        (["--baseline", "bundled"], "--contenders bundled@dense"),
        (["--tasks", "ledger"], "tasks is part of a sweep"),
        (["--out", "{new}"], "which is no part of a sweep; leave --out away"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(more, message, folder, text, tmp_path, capsys):
    new = tmp_path / "new"
    assert evaluate(folder, text, *(word.format(new=new) for word in more)) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not new.exists()
