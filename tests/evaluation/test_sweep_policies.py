"""All policies in one tiny sweep, as large as the learned contender where they can be."""

import json

import pytest
import torch
from safetensors.torch import save_file

from snello.cli.main import MISTAKE, OK, main
from snello.config.contender import parse_contender
from snello.config.dms import DecisionConfig
from snello.evaluation.opening import fit_size
from snello.models.adapter import CARD, WEIGHTS, Card

MATCHED = [
    "streaming:sinks=2,window=match",
    "h2o:budget=match",
    "tova:budget=match",
    "snapkv:budget=match,slide=8",
    "rkv:budget=match,every=3",
]
OTHERS = ["random:keep=0.25,window=6", "snapkv:budget=16", "quest:budget=16"]


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """An adapter whose random decisions evict about half the tokens."""
    folder = tmp_path_factory.mktemp("slim") / "slim"
    folder.mkdir()
    torch.manual_seed(4)
    card = Card(base_model=str(tiny_folder), decision=DecisionConfig(window_tokens=6), factor=2.0)
    (folder / CARD).write_text(card.as_json())
    parts = {"norm": torch.ones(32), "proj": torch.randn(2, 32) * 0.05}
    save_file(
        {
            f"model.layers.{layer}.decision.{name}.weight": part.clone()
            for layer in range(2)
            for name, part in parts.items()
        },
        folder / WEIGHTS,
    )
    return folder


def words(adapter, tiny_folder, out, policies):
    contenders = [f"{tiny_folder}@{policy}" for policy in policies]
    return [
        "evaluate", str(adapter), "--out", str(out), "--policies", "dms",
        "--contenders", *contenders, "--questions", "1", "--threads", "1",
        "--lengths", "24", "--batch", "2",
    ]  # fmt: skip


def test_policies_answer_side_by_side_at_equal_peaks(adapter, tiny_folder, tmp_path):
    policies = ["dense", *MATCHED, *OTHERS]
    assert main(words(adapter, tiny_folder, tmp_path / "out", policies)) == OK
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    cells = {c["contender"]: c for c in figures["cells"] if c["threads"] == 1}
    assert len(cells) == 1 + len(policies)
    dense, slim = cells[f"{tiny_folder}@dense"], cells[f"{adapter}@dms"]
    for policy in MATCHED:
        cell = cells[f"{tiny_folder}@{policy}"]
        assert 0 <= cell["peak_live_tokens"] - slim["peak_live_tokens"] < 1, policy
        assert cell["kv_reads_tokens"] < dense["kv_reads_tokens"], policy
    quest, snapkv = (
        cells[f"{tiny_folder}@quest:budget=16"],
        cells[f"{tiny_folder}@snapkv:budget=16"],
    )
    assert quest["peak_live_tokens"] > slim["peak_live_tokens"]
    assert snapkv["peak_live_tokens"] <= 16 + 24
    memories = {
        line["contender"]: line["memory"] for line in figures["sessions"] if line["event"] == "open"
    }
    assert memories[f"{tiny_folder}@rkv:budget=match,every=3"] == "rkv"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("h2o", "names no budget; write h2o:budget=COUNT"),
        ("h2o:budget=8,recent=9", "h2o keeps recent=9 of a budget of 8"),
        ("tova:budget=8+survivors=int8", "the policy tova has no window"),
    ],
)
def test_what_does_not_go_together_gets_one_line(
    policy, message, adapter, tiny_folder, tmp_path, capsys
):
    assert main(words(adapter, tiny_folder, tmp_path / "out", ["dense", policy])) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        ("window:tokens=match", 20),  # and the newest token
        ("streaming:window=match", 16),  # and four sinks
        ("streaming:sinks=2,window=match", 18),
        ("tova:budget=match", 21),
    ],
)
def test_a_size_leaves_room_for_what_stays_beside_it(policy, size):
    contender = parse_contender(f"base@{policy}")
    assert fit_size(contender, 20.3) == size
