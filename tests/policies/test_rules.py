"""Rules of a budget, each on a page of paper: one sequence, one key-value head, a few tokens."""

import math

import pytest
import torch

from snello.cache.store import EMPTY
from snello.config.policy import parse_policy
from snello.policies import RULES, Rule, Sight, build_rule
from snello.policies.h2o import H2o
from snello.policies.rkv import Rkv, measure_redundancy
from snello.policies.rule import keep_best
from snello.policies.snapkv import SnapKv
from snello.policies.tova import Tova


def see(weights, positions, *, notes=None, keys=None, num_notes=1):
    """A sight of weights[head][query][place] under one key-value head; positions None: empty."""
    weights = torch.tensor(weights)[None]
    shown = torch.tensor([[[EMPTY if p is None else p for p in positions]]])
    is_live = shown < EMPTY
    if notes is None:
        notes = torch.zeros(1, 1, len(positions), num_notes)
    else:
        notes = torch.tensor(notes)[None, None]
    if keys is None:
        keys = torch.eye(len(positions))
    return Sight(
        scores=weights.log(),
        weights=weights,
        keys=torch.as_tensor(keys)[None, None],
        positions=shown,
        is_live=is_live,
        last=shown[is_live].max()[None],
        layer=0,
        notes=notes,
    )


def kept(verdict, sight):
    return sight.positions[verdict.keep].tolist()


@pytest.mark.parametrize("name", [name for name in RULES if name != "tri"])  # wants a file
def test_every_rule_is_a_rule_and_keeps_all_within_its_budget(name):
    rule = build_rule(parse_policy(f"{name}:budget=40", "a test"))
    assert isinstance(rule, Rule)
    sight = see([[[0.5, 0.25, 0.25]]], [1, 0, 2], num_notes=rule.num_notes)
    verdict = rule.decide(sight)
    assert verdict.keep.all()
    assert verdict.notes.shape == sight.notes.shape
    chunk = see([[[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]], [1, 0, 2], num_notes=rule.num_notes)
    assert rule.decide(chunk).keep.all()


def test_the_best_are_kept_and_of_equals_the_first_and_no_empty_place():
    values = torch.tensor([[[1.0, 3.0, 1.0, 9.0, 1.0]]])
    is_live = torch.tensor([[[True, True, True, False, True]]])
    assert keep_best(values, is_live, 2).tolist() == [[[True, True, False, False, False]]]
    assert keep_best(values, is_live, 9).tolist() == is_live.tolist()


def test_tova_lets_go_of_whom_all_heads_together_look_at_least():
    """Means of the heads: 0.35, 0.1, 0.25, 0.3; neither head alone would drop position 5."""
    heads = [[[0.3, 0.15, 0.05, 0.5]], [[0.4, 0.05, 0.45, 0.1]]]
    sight = see(heads, [0, 5, 3, 6])
    assert kept(Tova(3).decide(sight), sight) == [0, 3, 6]


def test_tova_keeps_the_newest_even_if_it_looks_elsewhere():
    sight = see([[[0.6, 0.3, 0.1]]], [4, 2, 7])
    assert kept(Tova(2).decide(sight), sight) == [4, 7]


def test_tova_asks_only_the_last_query_of_a_prompt():
    sight = see([[[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.1, 0.5, 0.4]]], [0, 1, 2])
    assert kept(Tova(2).decide(sight), sight) == [1, 2]


def test_h2o_adds_up_what_it_saw_and_keeps_heavy_hitters_and_the_recent():
    """Sums before: 1.0, 0.4, 0.2, new 0; two heads add 0.2, 0.9, 0.3, 0.6. Newest two: 8, 9."""
    heads = [[[0.1, 0.5, 0.1, 0.3]], [[0.1, 0.4, 0.2, 0.3]]]
    sight = see(heads, [3, 5, 8, 9], notes=[[1.0], [0.4], [0.2], [0.0]])
    verdict = H2o(3, recent=2).decide(sight)
    torch.testing.assert_close(verdict.notes[0, 0, :, 0], torch.tensor([1.2, 1.3, 0.5, 0.6]))
    assert kept(verdict, sight) == [5, 8, 9]


def test_h2o_sums_over_the_queries_of_a_prompt():
    """Columns sum to 1.6, 0.9, 0.5; with half of two recent, one heavy hitter stays: 0."""
    sight = see([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.4, 0.5]]], [0, 1, 2])
    assert kept(H2o(2).decide(sight), sight) == [0, 2]


def test_snapkv_smooths_what_the_last_queries_saw_in_order_of_positions():
    """Two observe. Means over positions 0 to 4: 0.1, 0, 0, 0.3, 0; the window's do not count.

    Smoothed over three: 0.033, 0.033, 0.1, 0.1, 0.1. A budget of 5 leaves three of them.
    """
    first = [0.1, 0.0, 0.0, 0.3, 0.0, 0.6, 0.0]
    second = [0.1, 0.0, 0.0, 0.3, 0.0, 0.2, 0.4]
    order = [3, 0, 6, 1, 5, 2, 4]  # slots are in any order
    early = [1.0, 0, 0, 0, 0, 0, 0]
    rows = [[row[p] for p in order] for row in (early, first, second)]
    sight = see([rows], order)
    verdict = SnapKv(5, window=2, kernel=3).decide(sight)
    assert sorted(kept(verdict, sight)) == [2, 3, 4, 5, 6]


def test_snapkv_keeps_what_is_generated_or_lets_it_slide():
    notes = [[0.0], [1.0], [1.0], [0.0]]
    sight = see([[[0.25, 0.25, 0.25, 0.25]]], [2, 5, 6, 7], notes=notes)
    everything = SnapKv(3).decide(sight)
    assert kept(everything, sight) == [2, 5, 6, 7]
    assert everything.notes[0, 0, :, 0].tolist() == [0.0, 1.0, 1.0, 1.0]
    sliding = SnapKv(3, slide=2, window=1)
    assert kept(sliding.decide(sight), sight) == [2, 6, 7]
    assert (sliding.chunk_limit, sliding.limit) == (1, 3)


def test_redundancy_excuses_the_latest_of_the_similar():
    """Keys a, a, b: each a is the other's latest similar one, so only the b-likeness counts.

    Cosines to b: 0.3 for both a's. Column means over three: 0.1, 0.1, 0.2.
    """
    a, b = [1.0, 0.0], [0.3, math.sqrt(1 - 0.09)]
    keys = torch.tensor([[[a, a, b, [9.0, 9.0]]]])
    is_live = torch.tensor([[[True, True, True, False]]])
    positions = torch.tensor([[[0, 1, 2, EMPTY]]])
    found = measure_redundancy(keys, is_live, positions)[0, 0]
    expected = torch.tensor([0.1, 0.1, 0.2]).softmax(0)
    torch.testing.assert_close(found[:3], expected)
    assert found[3] == 0


def test_redundancy_falls_on_the_earlier_of_three_equal_keys():
    """Each row excuses the latest it is like: rows 0 and 1 the last one, row 2 the second.

    Columns sum to 2, 1, 0 over three rows: the first is like two others that nobody excuses.
    """
    keys = torch.ones(1, 1, 3, 2)
    found = measure_redundancy(keys, torch.ones(1, 1, 3).bool(), torch.arange(3).view(1, 1, 3))
    torch.testing.assert_close(found[0, 0], torch.tensor([2 / 3, 1 / 3, 0.0]).softmax(0))


def test_rkv_waits_until_a_head_is_full_then_lets_several_go():
    """Budget 5, two at once, a window of one, redundancy alone: all keys differ but 1 and 2.

    Each of the two is excused in the other's row, so all are equally redundant but for what the
    older ones are looked at; importance decides: positions 3 and 4 were looked at most.
    """
    rule = Rkv(5, every=3, window=1, kernel=1, mix=0.9)
    part = see([[[0.2] * 5]], [0, 1, 2, 3, 4])
    assert rule.decide(part).keep.all()
    keys = torch.eye(6)
    full = see([[[0.1, 0.05, 0.05, 0.5, 0.2, 0.1]]], [0, 1, 2, 3, 4, 5], keys=keys)
    assert kept(rule.decide(full), full) == [3, 5]


def test_rkv_drops_the_earlier_copy_where_nothing_is_looked_at_more():
    keys = torch.eye(6)
    keys[0] = keys[1] = keys[2]
    sight = see([[[1 / 6] * 6]], range(6), keys=keys)
    rule = Rkv(5, every=1, window=1, kernel=1)
    assert kept(rule.decide(sight), sight) == [2, 3, 4, 5]


def test_rkv_notes_the_scores_of_its_last_queries_by_position():
    rule = Rkv(9, every=1, window=3, kernel=1)
    sight = see([[[0.5, 0.5]]], [6, 7], notes=[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    noted = rule.decide(sight).notes[0, 0]
    log = math.log(0.5)
    torch.testing.assert_close(noted, torch.tensor([[1.0, log, 3.0], [0.0, log, 0.0]]))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("snapkv:budget=8,window=9", "the prompt's budget is 8; give at most that"),
        ("snapkv:budget=8,slide=8", "snapkv keeps slide=8 of a budget of 8; give less"),
        ("snapkv:budget=8,kernel=4", "kernel=4; give an odd count"),
        ("rkv:budget=8,window=8", "keeps window=8 newest tokens; give a larger budget"),
        ("rkv:budget=80,kernel=4", "rkv pools with kernel=4; give an odd count"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(written, message):
    with pytest.raises(ValueError, match=message):
        build_rule(parse_policy(written, "a test"))
