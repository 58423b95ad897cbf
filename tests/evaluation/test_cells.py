"""Cells added up by hand: nested threads, a prompt paid once, replies cut at a length."""

import numpy as np
import pytest

from snello.evaluation.cells import gather_cells
from tests.evaluation.made_up_chains import make_record

NAME = "slim@dms"


def cells_of(records, threads, lengths=(64,), questions=("q0",)):
    by_key = {record.key: record for record in records}
    return gather_cells(by_key, [(NAME, "dms")], {"ledger": questions}, threads, lengths)


def test_threads_on_a_page_of_paper():
    """Four chains say 5, 4, 4 and nothing; 4 is right. Two say 5 first, three say 4."""
    said = [("5", 0.0), ("4", 1.0), ("4", 1.0), (None, 0.0)]
    records = [
        make_record(chain=i, answers=(answer,), scores=(score,), reads=10.0 * (i + 1), live=5.0 + i)
        for i, (answer, score) in enumerate(said)
    ]
    one, two, three, four = cells_of(records, (1, 2, 3, 4))
    assert [cell.vote.item() for cell in (one, two, three, four)] == [0, 0, 1, 1]
    assert [cell.pass_all.item() for cell in (one, two, three, four)] == [0, 1, 1, 1]
    assert [cell.mean.item() for cell in (one, two, four)] == [0, 0.5, 0.5]
    assert one.pass_k.item() == 0.5  # two of all four
    assert two.pass_k.item() == pytest.approx(1 - 1 / 6)  # one of six pairs has none
    assert three.kv_reads.item() == 1000 + 10 + 20 + 30
    assert three.peak_live_tokens.item() == 5 + 6 + 7
    assert three.peak_bytes.item() == (5 + 6 + 7) * 1024
    assert one.factor.item() == (100 + 40 - 1) / 5
    assert two.factor.item() == pytest.approx((139 / 5 + 139 / 6) / 2)


def test_a_shorter_length_pays_less_and_knows_less():
    record = make_record(
        answers=(None, "4"), scores=(0.0, 1.0), lengths=(10, 64), tokens=40, reads=200.0
    )
    short, long = cells_of([record], (1,), (10, 64))
    assert (short.vote.item(), long.vote.item()) == (0, 1)
    assert (short.is_cut.item(), long.is_cut.item()) == (1, 0)
    assert (short.generated_tokens.item(), long.generated_tokens.item()) == (10, 40)
    assert (short.kv_reads.item(), long.kv_reads.item()) == (1050, 1200)
    assert short.label == "10 tokens x 1"


def test_columns_follow_the_questions():
    records = [
        make_record(question=name, scores=(score,))
        for name, score in (("q1", 0.0), ("q0", 1.0), ("q2", 0.5))
    ]
    (cell,) = cells_of(records, (1,), questions=("q0", "q1", "q2"))
    assert np.array_equal(cell.mean, [1.0, 0.0, 0.5])
    assert np.array_equal(cell.pass_all, [1.0, 0.0, 0.0])


def test_a_missing_chain_is_no_wrong_answer():
    with pytest.raises(ValueError, match="chain 1 of slim@dms on ledger/q0 is missing; repeat"):
        cells_of([make_record()], (2,))
