"""Long texts: as long as asked for, the facts where they should be."""

import random
from itertools import islice

import pytest

from snello.evaluation.tasks.haystack import fill, insert_at, take, write_sentences


def test_the_longest_text_that_fits_is_found():
    for length in (1, 2, 3, 16, 17, 100):
        assert len(fill(lambda n: "x " * (n + 1), str.split, length).split()) == length
    assert len(fill(lambda n: "a b c " * n, str.split, 100).split()) == 99


def test_a_length_without_room_for_the_facts_is_refused():
    with pytest.raises(ValueError, match=r"a prompt of 3 tokens was asked for; .* already has 4"):
        fill(lambda n: "a b c d " + "x " * n, str.split, 3)


def test_facts_stand_at_their_share_of_the_way():
    sentences = [str(number) for number in range(10)]
    assert insert_at(sentences, ["a"], [0.0])[0] == "a"
    assert insert_at(sentences, ["a"], [1.0])[-1] == "a"
    assert insert_at(sentences, ["a"], [0.5]).index("a") == 5
    mixed = insert_at(sentences, ["a", "b", "c"], [0.5, 0.2, 0.5])
    assert [each for each in mixed if each.isdigit()] == sentences
    assert mixed.index("b") == 2
    assert mixed.index("c") == mixed.index("a") + 1


def test_sentences_are_made_up_from_the_seed():
    first = [list(islice(write_sentences(random.Random(seed)), 9)) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    assert all(sentence.endswith(".") for sentence in first[0])


def test_sentences_of_a_file_go_round(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One is here.  Is two?\nThree!\n")
    some = list(islice(write_sentences(random.Random(0), path), 6))
    assert sorted(some[:3]) == ["Is two?", "One is here.", "Three!"]
    assert some[:3] == some[3:]
    path.write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        write_sentences(random.Random(0), path)
    with pytest.raises(ValueError, match="there is no text"):
        write_sentences(random.Random(0), tmp_path / "none")


def test_what_was_taken_stays():
    first = take(iter("abcdef"))
    assert first(2) == ["a", "b"]
    assert first(4) == list("abcd")
    assert first(1) == ["a"]
