"""Heads drawn on paper: what they keep of a text whose every token's fate is known."""

import pytest

from snello.evaluation.portrait import MOMENTS, portray
from snello.evaluation.token_kinds import find_kind
from snello.evaluation.trace import HeadTrace, Trace

WINDOW = 3
TOKENS = ("<|user|>", " otter", " 5", ">", " heron", " rests", " near", " 7", " the", " river") * 4

ALL, NONE = set(range(40)), set()
DIGITS = {place for place, token in enumerate(TOKENS) if token.strip().isdigit()}
OTTERS = {place for place, token in enumerate(TOKENS) if token == " otter"}


def make_trace(keeps, tokens=TOKENS) -> Trace:
    """One head for each set of positions in `keeps`; others go as they leave the window."""
    last = len(tokens)
    heads = tuple(
        HeadTrace(
            layer=place // 2,
            head=place % 2,
            gone_at=tuple(
                None if position in kept or position + WINDOW + 2 > last
                else position + WINDOW + 2
                for position in range(last)
            ),
        )
        for place, kept in enumerate(keeps)
    )  # fmt: skip
    trace = Trace(tokens=tokens, num_prompt_tokens=10, window_tokens=WINDOW, heads=heads)
    trace.check()
    return trace


def test_kinds_of_tokens():
    kinds = {
        "special": ["<|user|>", "</think>", " <think>", "[INST]", "<s>"],
        "digit": ["5", " 42", " ٣"],
        "name": [" otter", "Paris", " HERON"],
        "word": [" rests", "river", "x2", "n't"],
        "sign": [">", " =", ".", "->", "[", "<", "\u23ce"],
        "space": [" ", "\n", ""],
    }
    for kind, tokens in kinds.items():
        assert {token: find_kind(token) for token in tokens} == dict.fromkeys(tokens, kind)


def test_patterns_have_names():
    """Each head has one habit; behind the window stand 36 of the 40 tokens."""
    rules = {
        "recent only": NONE,
        "almost everything": ALL - {5},
        "recent and the first tokens": set(range(4)),
        "recent and every one of the digits": DIGITS,
        "recent and mostly names": OTTERS,
        "recent and some, digits above all": {2, 12, 22, 32, 9, 19, 11, 13, 25},
        "recent and a choice from everywhere": set(range(10, 20)),
    }
    portraits = portray([make_trace(list(rules.values()))])
    assert [portrait.pattern for portrait in portraits] == list(rules)
    assert [(p.layer, p.head) for p in portraits][:3] == [(0, 0), (0, 1), (1, 0)]


def test_shares_on_a_page_of_paper():
    """Of 36 tokens behind the window 7 are digits; a head that keeps them and one word has 8."""
    (portrait,) = portray([make_trace([DIGITS | {5}])])
    assert portrait.kept_fraction == pytest.approx(8 / 36)
    digits = portrait.shares[0]
    assert (digits.kind, digits.kept) == ("digit", 1.0)
    assert digits.of_survivors == pytest.approx(7 / 8)
    assert digits.lift == pytest.approx((7 / 8) / (7 / 36))
    word = next(share for share in portrait.shares if share.kind == "word")
    assert word.kept == pytest.approx(1 / 13)
    assert portrait.preferences == f"digits x{36 / 8:.1f}"
    positions = [2, 5, 7, 12, 17, 22, 27, 32]
    assert portrait.mean_distance_tokens == pytest.approx(sum(39 - p for p in positions) / 8)
    assert portrait.sink_share == 3 / 8


def test_live_tokens_over_time():
    """All is kept: a twelfth more at each moment. Nothing is: never more than the window."""
    everything, nothing = portray([make_trace([ALL, NONE])])
    assert everything.live_tokens == tuple(40 * m // MOMENTS for m in range(1, MOMENTS + 1))
    assert nothing.live_tokens == (3,) + (WINDOW + 1,) * 11
    assert everything.sparkline[-1] == "\u2588"
    assert nothing.sparkline == "\u2586" + "\u2588" * 11
    assert len(everything.sparkline) == MOMENTS
    assert everything.mean_distance_tokens is not None
    assert nothing.mean_distance_tokens is None


def test_several_texts_are_counted_together():
    """One text keeps its digits, the other nothing: half of all digits."""
    texts = [
        make_trace([DIGITS]),
        make_trace([NONE]),
    ]
    (portrait,) = portray(texts)
    assert portrait.shares[0].kept == pytest.approx(0.5)
    assert portrait.kept_fraction == pytest.approx(7 / 72)
    assert portrait.live_tokens[-1] == pytest.approx((4 + 7 + 4) / 2)


def test_a_text_within_the_window_has_nothing_behind_it():
    (portrait,) = portray([make_trace([ALL], tokens=(" a", " b", " c"))])
    assert portrait.kept_fraction == 0.0
    assert portrait.pattern == "recent only"
    assert portrait.shares == ()


def test_texts_of_different_models_have_no_portrait_in_common():
    one, two = make_trace([ALL]), make_trace([ALL] * 2)
    with pytest.raises(ValueError, match="2 traces show 2 sets of heads"):
        portray([one, two])
    with pytest.raises(ValueError, match="0 traces show 0 sets"):
        portray([])
