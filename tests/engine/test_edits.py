"""Bias, penalties and bans: on paper, and against the logits processors of transformers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from snello.config.sampling import SamplingConfig
from snello.engine.edits import Edits, TokenCounts, edit_logits


def edit(logits, prompt_ids=(), reply_ids=(), end_ids=(), **wish):
    edits = Edits(SamplingConfig(**wish), list(prompt_ids), end_ids)
    for token_id in reply_ids:
        edits.accept(token_id)
    logits = torch.tensor([logits])
    edit_logits(logits, [(0, edits)])
    return logits[0].tolist()


def test_repetition_divides_what_is_above_zero_and_multiplies_the_rest():
    """Tokens 0 and 1 stand in the prompt, 2 in the reply, 3 nowhere."""
    edited = edit(
        [4.0, -4.0, 1.0, 3.0], prompt_ids=[0, 1, 0], reply_ids=[2], repetition_penalty=2.0
    )
    assert edited == [2.0, -8.0, 0.5, 3.0]


def test_presence_and_frequency_count_the_reply_alone():
    """Token 0 stands in the prompt only; 1 once and 2 three times in the reply."""
    given_ids = {"prompt_ids": [0, 1], "reply_ids": [2, 1, 2, 2]}
    assert edit([1.0] * 4, **given_ids, presence_penalty=0.5) == [1.0, 0.5, 0.5, 1.0]
    assert edit([1.0] * 4, **given_ids, frequency_penalty=0.25) == [1.0, 0.75, 0.25, 1.0]
    assert edit([1.0] * 4, **given_ids, frequency_penalty=-1.0) == [1.0, 2.0, 4.0, 1.0]


def test_a_token_of_the_prompt_alone_is_repetition_but_not_presence():
    edited = edit(
        [4.0, 4.0], prompt_ids=[0], reply_ids=[1], repetition_penalty=2.0, presence_penalty=1.0
    )
    assert edited == [2.0, 1.0]


def test_bias_comes_before_repetition_and_repetition_before_presence_and_frequency():
    """(-1 + 3) / 2 - 1 * 0.25 - 0.5 = 0.25; the other order would multiply the -1."""
    edited = edit(
        [-1.0],
        reply_ids=[0],
        logit_bias={0: 3.0},
        repetition_penalty=2.0,
        frequency_penalty=0.25,
        presence_penalty=0.5,
    )
    assert edited == [0.25]


def test_ends_are_banned_until_the_reply_is_long_enough():
    bans = {"end_ids": {1, 3}, "min_new_tokens": 2, "logit_bias": {1: 100.0}}
    assert edit([1.0] * 4, reply_ids=[0], **bans) == [1.0, -torch.inf, 1.0, -torch.inf]
    assert edit([1.0] * 4, reply_ids=[0, 0], **bans) == [1.0, 101.0, 1.0, 1.0]


def test_repetition_is_that_of_transformers():
    """With more tokens than the counts first has room for."""
    logits = torch.randn(1, 500)
    prompt, reply = torch.randint(500, (300,)).tolist(), torch.randint(500, (200,)).tolist()
    ours = edit(logits[0].tolist(), prompt, reply, repetition_penalty=1.3)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([prompt + reply]), logits)
    torch.testing.assert_close(torch.tensor(ours), theirs[0])


def test_the_ban_is_that_of_transformers():
    theirs = MinNewTokensLengthLogitsProcessor(4, 3, [1, 5], device="cpu")
    for num_new in range(5):
        ids, logits = torch.zeros(1, 4 + num_new, dtype=torch.long), torch.randn(1, 8)
        ours = edit(logits[0].tolist(), [0] * 4, [0] * num_new, [1, 5], min_new_tokens=3)
        assert ours == theirs(ids, logits)[0].tolist()


def test_a_row_is_edited_alike_in_any_company():
    logits = torch.randn(5, 50)
    wishes = [
        {"repetition_penalty": 1.2},
        {"presence_penalty": 1.0, "frequency_penalty": 0.3},
        {"logit_bias": {4: 2.0, 9: -100.0}},
        {"min_new_tokens": 90, "repetition_penalty": 0.9, "logit_bias": {9: 1.0}},
    ]
    edits = [Edits(SamplingConfig(max_new_tokens=99, **wish), [1, 2, 3], [7]) for wish in wishes]
    for token_id in [5, 9, 5, 44]:
        for one in edits:
            one.accept(token_id)
    together, apart = logits.clone(), logits.clone()
    edit_logits(together, list(enumerate(edits)))
    for row, one in enumerate(edits):
        edit_logits(apart[row : row + 1], [(0, one)])
        assert not torch.equal(apart[row], logits[row]), "nothing was edited"
    assert torch.equal(together, apart)
    assert torch.equal(together[4], logits[4])


@settings(deadline=None)
@given(st.lists(st.integers(0, 200)), st.lists(st.integers(0, 200), max_size=400))
def test_token_counts_count_as_a_recount_does(prompt_ids, reply_ids):
    counts = TokenCounts(prompt_ids)
    for token_id in reply_ids:
        counts.add(token_id)
    found = dict(zip(counts.token_ids.tolist(), counts.counts.tolist(), strict=True))
    assert found == {i: reply_ids.count(i) for i in {*prompt_ids, *reply_ids}}


@pytest.mark.parametrize("wish", [{}, {"temperature": 1.0, "top_k": 3, "stop": "x", "n": 2}])
def test_requests_without_special_wishes_keep_no_counts(wish):
    assert not SamplingConfig(**wish).edits_logits
