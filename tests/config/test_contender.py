"""Contenders as people write them, and one line for each that cannot be."""

import re

import pytest

from snello.config.contender import find_matched, parse_contender, parse_contenders
from snello.config.policy import PolicyConfig


@pytest.mark.parametrize(
    ("name", "model", "policy", "memory"),
    [
        ("slim", "slim", None, (None, None)),
        ("slim@dms", "slim", "dms", ("sparse", None)),
        ("slim@dms:window=8", "slim", "dms:window=8", ("sparse", 8)),
        ("bundled@dense", "bundled", "dense", ("dense", None)),
        ("bundled@window:tokens=64", "bundled", "window:tokens=64", ("window", 64)),
        ("runs/a@b/slim", "runs/a@b/slim", None, (None, None)),
        ("runs/a@b/slim@dense", "runs/a@b/slim", "dense", ("dense", None)),
        ("odd+name@dense", "odd+name", "dense", ("dense", None)),
    ],
)
def test_a_model_and_what_it_forgets_by(name, model, policy, memory):
    contender = parse_contender(name)
    assert (contender.name, contender.model, contender.policy) == (name, model, policy)
    assert contender.memory == memory


def test_formats_follow_in_any_order():
    contender = parse_contender("slim@dms+survivors=int8+weights=int4+kv_dtype=bfloat16")
    assert (contender.model, contender.policy) == ("slim", "dms")
    assert contender.survivors == "int8"
    assert contender.weights == "int4"
    assert contender.kv_dtype == "bfloat16"
    assert parse_contender("slim+survivors=fp8").survivors == "fp8"


def test_a_method_is_a_policy_without_its_settings():
    names = ("a", "a@window:tokens=3", "a@dms")
    assert [c.method for c in parse_contenders(names)] == ["learned", "window", "dms"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no contender; write MODEL, MODEL@POLICY"),
        ("@dms", "'@dms' is no contender"),
        ("slim@", "'slim@' is no contender"),
        ("slim@huge", "names the policy 'huge'; known: dense, dms, window, streaming, random, h2o"),
        ("slim@window", "names no tokens; write window:tokens=COUNT"),
        ("slim@window:tokens=0", "the setting 'tokens=0'; write KEY=COUNT"),
        ("slim@window:tokens", "the setting 'tokens'; write KEY=COUNT"),
        ("slim@window:sinks=4", "sets 'sinks'; settings of window: tokens=COUNT"),
        ("slim@dense:tokens=4", "sets 'tokens'; settings of dense: none"),
        ("slim@random:window=4", "names no keep; write random:window=COUNT,keep=SHARE"),
        ("slim@random:window=4,keep=1.5", "write keep=SHARE with a share above 0 and below 1"),
        ("slim@h2o:budget=4,budget=5", "sets 'budget' twice"),
        ("slim@tova:tokens=4", "sets 'tokens'; settings of tova: budget=COUNT"),
        ("slim@h2o:budget=8,recent=match", "the setting 'recent=match'; write KEY=COUNT"),
        ("slim@dms+survivors=int9", "has survivors=int9; allowed: same, int8"),
    ],
)
def test_what_cannot_take_part_is_refused(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_contender(name)


def test_a_window_may_match_the_nearest_learned_contender_before_it():
    names = ("base@dense", "slim4@dms", "slim8", "base@window:tokens=match")
    contenders = parse_contenders(names)
    assert [c.is_matched for c in contenders] == [False, False, False, True]
    assert find_matched(contenders, 3) is contenders[2]
    resolved = contenders[3].resolve(57)
    assert (resolved.name, resolved.memory) == (names[3], ("window", 57))
    with pytest.raises(ValueError, match=r"tokens=match is to match a contender .* name one befor"):
        parse_contenders(("base@dense", "base@window:tokens=match", "slim@dms"))


def test_a_rule_is_told_with_its_settings():
    contender = parse_contender("base@random:keep=0.125,window=16")
    assert contender.memory == (None, None)
    assert contender.rule == PolicyConfig("random", (("keep", 0.125), ("window", 16)))
    assert parse_contender("base@window:tokens=4").rule is None


def test_a_setting_may_be_a_file_in_a_folder():
    contender = parse_contender("runs/base@tri:budget=8,centres=runs/a/centres.safetensors")
    assert (contender.model, contender.method) == ("runs/base", "tri")
    assert contender.rule.numbers == {"budget": 8}
    assert contender.rule.files == (("centres", "runs/a/centres.safetensors"),)
    with pytest.raises(ValueError, match="names no centres; write tri:budget=COUNT,centres=FILE"):
        parse_contender("base@tri:budget=8")


def test_a_budget_may_match_too_with_other_settings_behind_it():
    contenders = parse_contenders(("slim@dms", "base@h2o:budget=match,recent=3"))
    assert contenders[1].is_matched
    assert contenders[1].resolve(31).rule.numbers == {"budget": 31, "recent": 3}


def test_nobody_takes_part_twice():
    with pytest.raises(ValueError, match="slim takes part twice"):
        parse_contenders(("slim", "bundled", "slim"))
