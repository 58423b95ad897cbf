"""Stop strings against a naive search of the whole text, however the text is cut into tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snello.config.sampling import SamplingConfig
from snello.engine.stopping import StopFinder
from snello.engine.writer import Writer


def cut(text, stops, *, shows_stops=False, exempt=0):
    """What is left of a text, and the stop string, by trying every end in turn."""
    for end in range(exempt + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end if shows_stops else end - len(longest)], longest
    return text, None


def run(pieces, stops, *, shows_stops=False, num_exempt=0):
    """Push pieces until a stop string is found; return what was shown after each, and it."""
    finder, shown = StopFinder(stops, shows_stops=shows_stops), []
    for number, piece in enumerate(pieces):
        shown.append(finder.push(piece, may_stop=number >= num_exempt))
        if finder.found is not None:
            break
    return [*shown, finder.close()], finder.found


LETTERS = st.text("ab", min_size=1, max_size=4)
PIECES = st.lists(st.text("ab", max_size=4), max_size=12)
STOPS = st.lists(LETTERS, max_size=4)


@settings(max_examples=500, deadline=None)
@given(PIECES, STOPS, st.booleans(), st.integers(0, 4))
def test_a_text_is_cut_where_a_search_of_all_of_it_cuts(pieces, stops, shows_stops, num_exempt):
    exempt = len("".join(pieces[:num_exempt]))
    shown, found = run(pieces, stops, shows_stops=shows_stops, num_exempt=num_exempt)
    expected = cut("".join(pieces), stops, shows_stops=shows_stops, exempt=exempt)
    assert ("".join(shown), found) == expected


@settings(max_examples=300, deadline=None)
@given(PIECES, STOPS)
def test_nothing_is_shown_that_a_stop_string_may_still_swallow(pieces, stops):
    """Whatever comes next: one more stop string, behind any part of it that is there already."""
    for size in range(len(pieces) + 1):
        shown, found = run(pieces[:size], stops)
        before_close = "".join(shown[:-1])
        for stop in [] if found else stops:
            for split in range(len(stop)):
                kept, _ = cut("".join(pieces[:size]) + stop[split:], stops)
                assert kept.startswith(before_close)


@settings(max_examples=300, deadline=None)
@given(PIECES, STOPS)
def test_no_more_is_held_back_than_may_be_swallowed(pieces, stops):
    shown, found = run(pieces, stops)
    if found is None and shown[-1]:
        held = shown[-1]
        assert any(stop.startswith(held) for stop in stops)


def test_the_string_that_is_complete_first_wins_and_of_those_the_longest():
    assert run(["abcd"], ["abcd", "bc"]) == (["a", ""], "bc")
    assert run(["xab"], ["b", "ab"]) == (["x", ""], "ab")


def decode_bytes(token_ids):
    return bytes(token_ids).decode("utf-8", errors="replace")


@settings(max_examples=200, deadline=None)
@given(
    st.text("a\u00e9\u4e16\U0001f600", max_size=12),
    st.lists(st.text("a\u00e9\u4e16\U0001f600", min_size=1, max_size=3), max_size=3),
    st.booleans(),
)
def test_a_stop_string_is_found_through_the_bytes_of_its_characters(text, stops, shows_stops):
    writer = Writer(
        decode_bytes, SamplingConfig(stop=stops, include_stop_str_in_output=shows_stops)
    )
    shown = []
    for byte in text.encode():
        shown.append(writer.push(byte))
        if writer.found is not None:
            break
    shown.append(writer.close())
    assert (writer.text, writer.found) == cut(text, stops, shows_stops=shows_stops)
    assert "".join(shown) == writer.text


def test_a_character_that_stays_incomplete_is_shown_at_the_end():
    writer = Writer(decode_bytes, SamplingConfig())
    shown = [writer.push(byte) for byte in "a\u4e16".encode()[:-1]]
    assert shown == ["a", "", ""]
    assert writer.close() == "\ufffd"
    assert writer.text == "a\ufffd"


@pytest.mark.parametrize("min_new_tokens", [0, 1, 2, 3])
def test_stop_strings_wait_for_the_least_length(min_new_tokens):
    """Bytes of 'abab': the first 'b' is token 2, the second token 4."""
    writer = Writer(decode_bytes, SamplingConfig(stop="b", min_new_tokens=min_new_tokens))
    for byte in b"abab":
        writer.push(byte)
        if writer.found is not None:
            break
    assert writer.text == ("a" if min_new_tokens < 2 else "aba")
