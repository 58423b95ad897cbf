"""The tokenizer: nothing unknown in any problem, text comes back, and the saved one is this one."""

import json

import pytest
from tokenizers import Tokenizer

from snello.bundled import model_folder
from snello.bundled.problems import KINDS, LEVELS, pose
from snello.bundled.tokenizer import SPECIAL, THOUGHT, build_tokenizer
from snello.bundled.words import ADJECTIVES, COUNTING, GLUE, NAMES, NOUNS, PLACES, SUM, VERBS


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_comes_back_as_it_was(kind, level, tokenizer):
    for seed in range(3):
        problem = pose(kind, level=level, seed=seed)
        text = problem.question + problem.reply
        ids = tokenizer.encode(text).ids
        assert tokenizer.token_to_id("<|unk|>") not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("word", [NAMES[0], ADJECTIVES[0], NOUNS[0], VERBS[0], PLACES[0], GLUE[-1]])
def test_a_known_word_is_one_token_with_or_without_its_space(word, tokenizer):
    assert tokenizer.encode(word).tokens == [word]
    assert tokenizer.encode(f" {word}").tokens == [f" {word}"]


def test_a_word_that_starts_with_a_known_one_is_spelled(tokenizer):
    assert tokenizer.encode(" otterly").tokens == [" o", "t", "t", "e", "r", "l", "y"]


def test_special_tokens_and_the_signs_of_a_thought_are_one_token_each(tokenizer):
    for token in (*SPECIAL, *THOUGHT):
        assert tokenizer.encode(token).tokens == [token]


def test_special_tokens_come_first_in_their_order(tokenizer):
    assert [tokenizer.id_to_token(index) for index in range(len(SPECIAL))] == list(SPECIAL)


def test_no_word_is_in_two_lists_that_a_problem_draws_from():
    lists = (NAMES, ADJECTIVES, NOUNS, VERBS, PLACES)
    drawn = [word for words in lists for word in words]
    assert len(drawn) == len(set(drawn))
    assert not set(NAMES) & {*GLUE, *SUM, *COUNTING}


@pytest.mark.skipif(not model_folder().exists(), reason="the model is not in this checkout")
def test_the_saved_tokenizer_is_the_built_one(tokenizer):
    saved = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    built = json.loads(tokenizer.to_str())
    stored = json.loads(saved.to_str())
    for name in ("model", "added_tokens", "pre_tokenizer", "decoder", "normalizer"):
        assert stored[name] == built[name], name
