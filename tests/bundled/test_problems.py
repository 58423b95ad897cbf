"""Problems: the same for the same seed, solvable from their text, judged rightly, short enough."""

import re

import pytest

from snello.bundled.problems import KINDS, LEVELS, SIZES, Problem, Size, answer_of, is_right, pose
from snello.bundled.tokenizer import build_tokenizer
from snello.bundled.words import LEGS

CONTEXT_TOKENS = 2048
SAMPLES = [(kind, level, seed) for kind in KINDS for level in LEVELS for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(params=SAMPLES, ids=lambda sample: "-".join(map(str, sample)))
def problem(request) -> Problem:
    kind, level, seed = request.param
    return pose(kind, level=level, seed=seed)


def wrong_answers(problem):
    """Replies that a judge must refuse."""
    value = int(problem.answer)
    return [str(value + 1), str(-value - 1), ""]


def test_the_same_seed_gives_the_same_problem(problem):
    assert pose(problem.kind, level=problem.level, seed=problem.seed) == problem


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_another_problem(kind):
    questions = {pose(kind, level=1, seed=seed).question for seed in range(20)}
    assert len(questions) == 20


def test_its_own_reply_is_right(problem):
    assert is_right(problem, answer_of(problem.reply))


def test_wrong_answers_are_wrong(problem):
    for answer in wrong_answers(problem):
        assert not is_right(problem, answer), answer


def test_an_answer_stands_after_the_thought():
    assert answer_of(" otter 4</think> 4") == "4"
    assert answer_of(" otter 4</think>") == ""
    assert answer_of(" a thought that never ends") == ""


NOTE = re.compile(r"(\w+) (\d)>(\w+)")
"""A ledger's note: who, which digit, who comes next."""


def read_notes(text):
    return {name: (int(digit), follower) for name, digit, follower in NOTE.findall(text)}


@pytest.mark.parametrize("level", LEVELS)
def test_a_ledger_can_be_solved_from_its_text_alone(level):
    problem = pose("ledger", level=level, seed=3)
    notes, total, num_followed = read_notes(problem.question), 0, 0
    name = re.search(r"the sum from (\w+) to home\?", problem.question)[1]
    while name != "home":
        digit, name = notes[name]
        total, num_followed = total + digit, num_followed + 1
    assert str(total % 10) == problem.answer
    assert num_followed == SIZES[level].steps < len(notes), "some notes are not needed"


def test_each_step_of_a_ledger_follows_from_the_one_before():
    problem = pose("ledger", level=2, seed=5)
    asked, total, expected = read_notes(problem.question), 0, None
    for step in problem.thought.rstrip(",").split(","):
        (name, (digit, follower)), *others = read_notes(step).items()
        assert not others
        assert expected in (None, name), "the trail is followed"
        assert asked[name] == (digit, follower), "the note is read as it stands"
        total, expected = (total + digit) % 10, follower
        assert step.endswith(f"= {total}")
    assert expected == "home"
    assert str(total) == problem.answer


ANIMALS = "|".join(LEGS)
ITEM = rf" (\d+) ({ANIMALS})s? (\d+): (\d+) \+ (\d+) = (\d+): ({ANIMALS})s?,"
STEP = re.compile(ITEM)
"""A step of leg_counting: how many, of what, their legs, the legs before and after, of what."""


@pytest.mark.parametrize("level", LEVELS)
def test_legs_are_counted_in_the_order_of_the_question(level):
    problem = pose("leg_counting", level=level, seed=4)
    listed = re.search(r"if you have (.*)\?\s", problem.question)[1].split(", ")
    steps, total = STEP.findall(problem.thought), 0
    assert len(steps) == len(listed)
    for (count, animal, legs, before, added, after, again), asked in zip(
        steps, listed, strict=True
    ):
        assert asked.rstrip("s") == f"{count} {animal}".rstrip("s")
        assert again == animal
        assert int(legs) == int(added) == int(count) * LEGS[animal]
        assert int(before) == total
        total += int(legs)
        assert int(after) == total
    assert str(total) == problem.answer


def test_the_words_know_the_animals_that_reasoning_gym_knows():
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    assert LEGS == ANIMALS


def test_each_step_of_a_sum_names_the_term_before_its_own():
    problem = pose("chain_sum", level=3, seed=5)
    terms = re.search(r"problem: (.*) =", problem.question)[1].split()
    terms = [" ".join(terms[:1]), *(" ".join(terms[i : i + 2]) for i in range(1, len(terms), 2))]
    total = int(terms[0])
    steps = problem.thought.rstrip(",").split(",")
    assert len(steps) == len(terms) - 1
    for step, before, term in zip(steps, terms, terms[1:], strict=False):
        so_far, total = total, total + int(term.replace(" ", ""))
        assert step == f" {before} {term}: {so_far} {term} = {total}"
    assert str(total) == problem.answer


def test_a_size_replaces_the_level_s_own():
    small = pose("ledger", level=1, seed=0, size=Size(steps=2, notes=3, filler_words=20))
    assert len(NOTE.findall(small.thought)) == 2
    assert len(NOTE.findall(small.question)) == 3


def test_facts_stand_among_text_that_is_not_needed():
    problem = pose("ledger", level=1, seed=0)
    sentences = problem.question.split(".")
    needed = [index for index, sentence in enumerate(sentences) if NOTE.search(sentence)]
    assert len(needed) < len(sentences) / 2
    assert needed != list(range(needed[0], needed[0] + len(needed))), "scattered, not in a block"


def test_a_higher_level_asks_for_more():
    lengths = [len(pose("ledger", level=level, seed=0).reply) for level in LEVELS]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 3 * lengths[0]


def test_prompt_and_reply_fit_the_context(problem, tokenizer):
    prompt = tokenizer.encode(f"<|user|>{problem.question}<|end|><|assistant|><think>").ids
    reply = tokenizer.encode(f"{problem.reply}<|end|>").ids
    assert len(prompt) + len(reply) <= CONTEXT_TOKENS


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("ledger", 0, "level is 0; it must be one of 1, 2"),
        ("ledger", 7, "level is 7"),
    ],
)
def test_an_unknown_level_is_refused(kind, level, expected):
    with pytest.raises(ValueError, match=expected):
        pose(kind, level=level, seed=0)
