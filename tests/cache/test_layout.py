"""How a step's rows are grouped and padded."""

import pytest
import torch

from snello.cache.layout import arrange
from snello.cache.store import EMPTY

CPU = torch.device("cpu")


def test_rows_of_a_ragged_step_on_paper():
    """Sequence 4 holds 7 tokens and appends 1; sequence 2 is new and appends 3."""
    layout = arrange([4, 2], [7, 0], [1, 3], CPU)
    assert layout.positions.tolist() == [7, 0, 1, 2]
    assert layout.lengths.tolist() == [8, 3, 3, 3]
    assert layout.owners.tolist() == [4, 2, 2, 2]
    decode, chunks = layout.groups
    assert decode.is_decode
    assert decode.rows.tolist() == [[0]]
    assert chunks.rows.tolist() == [[1, 2, 3]]


def test_padding_sees_nothing_and_nothing_sees_it():
    (group,) = arrange([0, 1], [5, 0], [3, 4], CPU).groups
    assert group.query_positions.tolist() == [[5, 6, 7, -1], [0, 1, 2, 3]]
    assert group.key_positions.tolist() == [[5, 6, 7, EMPTY], [0, 1, 2, 3]]
    assert group.rows.tolist() == [[0, 1, 2, 0], [3, 4, 5, 6]]


@pytest.mark.parametrize("counts", [[1, 2, 3, 4, 5, 8, 9, 200], [1] * 5, [63]])
def test_groups_hold_every_sequence_once_and_pad_at_most_double(counts):
    layout = arrange(range(len(counts)), [0] * len(counts), counts, CPU)
    seen = torch.cat([group.sequences for group in layout.groups])
    assert sorted(seen.tolist()) == list(range(len(counts)))
    for group in layout.groups:
        assert group.rows.shape[1] < 2 * int(group.counts.min())


@pytest.mark.parametrize(
    ("sequences", "counts", "message"),
    [
        ([], [], "at least one"),
        ([0, 1], [1], "2 sequences and 1 counts"),
        ([0, 0], [1, 1], "each sequence may appear once"),
        ([0, 1], [1, 0], "at least 1 token"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(sequences, counts, message):
    with pytest.raises(ValueError, match=message):
        arrange(sequences, [0] * len(sequences), counts, CPU)
