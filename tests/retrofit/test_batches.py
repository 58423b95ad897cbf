"""Rows of steps: packed or padded, told by their number alone."""

import torch

from snello.retrofit.batches import PADDING, Documents, make_plan
from snello.retrofit.documents import Document

EOS = 99


def write(number):
    """Document n has 3 + n % 5 tokens, all n, and an end token; the reply starts at 2."""
    return Document([number] * (3 + number % 5) + [EOS], 2)


def plan_of(*, size=None, packed=True, rows=4, tokens=20, prompt_weight=1.0, seed=0):
    return make_plan(
        Documents(write=write, size=size, seed=seed),
        rows_of_step=rows,
        sequence_tokens=tokens,
        packed=packed,
        eos_ids=(EOS,),
        prompt_weight=prompt_weight,
    )


def test_packed_rows_are_full_and_positions_restart_with_each_document():
    batch = plan_of().batch(3, range(4))
    assert batch.tokens.shape == (4, 20)
    assert batch.real.all()
    for tokens, positions, segments in zip(
        batch.tokens, batch.positions, batch.segments, strict=True
    ):
        for segment in segments.unique():
            chosen = segments == segment
            assert positions[chosen].tolist() == list(range(int(chosen.sum())))
            assert len(set(tokens[chosen].tolist()) - {EOS}) == 1


def test_a_batch_depends_on_its_number_alone():
    straight = plan_of(size=30)
    for step in range(7):
        straight.batch(step, range(4))
    resumed = plan_of(size=30)
    assert torch.equal(straight.batch(7, range(4)).tokens, resumed.batch(7, range(4)).tokens)
    other = plan_of(size=30, seed=1)
    assert not torch.equal(straight.batch(7, range(4)).tokens, other.batch(7, range(4)).tokens)


def test_two_processes_see_the_halves_of_what_one_sees():
    for packed in (True, False):
        plan = plan_of(packed=packed)
        whole = plan.batch(5, range(4)).tokens
        halves = [plan.batch(5, range(2)).tokens, plan.batch(5, range(2, 4)).tokens]
        for half, rows in zip(halves, whole.split(2), strict=True):
            assert torch.equal(half, rows)


def test_padded_rows_hold_one_document_and_neighbours_are_of_similar_length():
    plan = plan_of(packed=False)
    for step in range(16):
        batch = plan.batch(step, range(4))
        lengths = batch.real.sum(1)
        assert lengths.max() == batch.tokens.shape[1]
        assert (batch.segments[batch.real] == 0).all()
        assert (batch.segments[~batch.real] == PADDING).all()
        assert lengths.max() - lengths.min() <= 1
        assert (batch.weights[~batch.real] == 0).all()


def test_sixteen_padded_steps_see_every_document_of_their_group_once():
    plan = plan_of(packed=False)
    seen = [int(row[0]) for step in range(16) for row in plan.batch(step, range(4)).tokens]
    assert sorted(seen) == list(range(64))


def test_a_source_that_ends_is_shuffled_anew_each_round():
    documents = Documents(write=write, size=10, seed=0)
    rounds = [[documents[turn * 10 + i].ids[0] for i in range(10)] for turn in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(10))
    assert rounds[0] != rounds[1]


def test_nothing_is_distilled_after_an_end_token_and_prompts_weigh_what_they_should():
    batch = plan_of(packed=False, prompt_weight=0.25).batch(0, range(1))
    tokens = batch.tokens[0].tolist()
    expected = [0.25] + [1.0] * (len(tokens) - 2) + [0.0]
    assert batch.weights[0].tolist() == expected
