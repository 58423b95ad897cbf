"""The problems the bundled model was trained on: posed, reasoned through, and judged, by seed.

Knows nothing of tokens or models. Facts that are needed late stand far back, among text that is
not needed; `level` is the dial of difficulty. The same seed always gives the same problem.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from snello.bundled.words import ADJECTIVES, LEGS, NAMES, NOUNS, PLACES, VERBS

Kind = Literal["ledger", "leg_counting", "chain_sum"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with the reasoning that solves it; `answer` is what a right reply ends with."""

    kind: Kind
    level: int
    seed: int
    question: str
    thought: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The question as a conversation of one user turn."""
        return [{"role": "user", "content": self.question}]

    @property
    def reply(self) -> str:
        """What the model should write after the opening `<think>` of its turn."""
        return f"{self.thought}</think> {self.answer}"


@dataclass(frozen=True, slots=True)
class Size:
    """How much a problem asks for: steps to take, notes to hold, words to ignore."""

    steps: int
    """Ledger: notes on the trail. Puzzles have steps of their own."""

    notes: int
    filler_words: int


SIZES = {
    1: Size(10, 12, 300),
    2: Size(14, 17, 420),
    3: Size(20, 24, 550),
    4: Size(28, 32, 700),
    5: Size(40, 44, 850),
    6: Size(57, 61, 1000),
}
LEG_COUNTING_ANIMALS = {1: (3, 4), 2: (4, 5), 3: (5, 7), 4: (7, 9), 5: (9, 11), 6: (11, 15)}
CHAIN_SUM_TERMS = {1: (2, 3), 2: (2, 4), 3: (3, 5), 4: (4, 6), 5: (4, 6), 6: (5, 6)}
"""Fewest and most of a level's puzzles."""


def pose(kind: Kind, *, level: int, seed: int, size: Size | None = None) -> Problem:
    """Return the problem of this kind, level and seed; a `size` replaces the level's own.

    Raises:
        ValueError: an unknown kind or level.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of problem {kind!r}; known: {', '.join(KINDS)}.")
    if level not in LEVELS:
        raise ValueError(f"level is {level}; it must be one of {', '.join(map(str, LEVELS))}.")
    dice = random.Random(f"{kind}/{level}/{seed}")
    pose_one = _pose_ledger if kind == "ledger" else _pose_puzzle
    return pose_one(dice, kind, level=level, seed=seed, size=size or SIZES[level])


def is_right(problem: Problem, answer: str) -> bool:
    """Judge a reply's answer; puzzles from reasoning-gym are judged by its own scorers."""
    if problem.kind == "ledger":
        return answer.strip() == problem.answer
    puzzles = _puzzles(problem.kind, problem.level)
    return bool(puzzles.score_answer(answer.strip(), puzzles[problem.seed]) == 1.0)


def answer_of(reply: str) -> str:
    """Return what a reply says after its thought; empty when the thought never ends."""
    return reply.partition("</think>")[2].strip()


def compose_sentence(dice: random.Random) -> str:
    """Return a sentence that says nothing to the point."""
    noun = f"the {dice.choice(ADJECTIVES)} {dice.choice(NOUNS)}"
    place = f"{dice.choice(PLACES)} the {dice.choice(NOUNS)}"
    if dice.random() < 0.25:
        return f"{noun} {dice.choice(VERBS)} {dice.randrange(10)} times {place}."
    return f"{noun} {dice.choice(VERBS)} {place}."


def _scatter(dice: random.Random, facts: list[str], filler_words: int) -> str:
    """Hide the facts, in order, among about `filler_words` tokens of sentences."""
    sentences = [compose_sentence(dice) for _ in range(max(1, round(filler_words / 8.25)))]
    places = sorted(dice.randrange(len(sentences) + 1) for _ in facts)
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        sentences.insert(place, fact)
    return " ".join(sentences)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Notes, each with a digit and the next note's name: follow them, and sum modulo ten.

    Notes off the trail look the same and lead to one another.
    """

    trail: list[str]
    """The notes to follow, in order."""

    shuffled: list[str]
    """All notes, in the order in which they stand in the text."""

    thought: str
    answer: str

    @property
    def ask(self) -> str:
        """The question that follows the text."""
        return f"what is the sum from {self.trail[0].split()[0]} to home?"


def draw_ledger(dice: random.Random, *, steps: int, notes: int) -> Ledger:
    """Draw notes, of which the first `steps` are the trail.

    Raises:
        ValueError: more steps than notes, or more notes than there are names.
    """
    if not 1 <= steps <= notes <= len(NAMES):
        raise ValueError(
            f"a ledger of {steps} steps and {notes} notes was asked for; it has at least one step, "
            f"no more steps than notes, and at most {len(NAMES)} notes."
        )
    holders = dice.sample(NAMES, notes)
    trail, strays = holders[:steps], holders[steps:]
    followers = [*trail[1:], "home", *strays[1:], "home"][:notes]
    written = {
        name: f"{name} {dice.randrange(10)}>{follower}"
        for name, follower in zip(holders, followers, strict=True)
    }
    shuffled = dice.sample(list(written.values()), notes)
    total, thought = 0, []
    for name in trail:
        total = (total + int(written[name].split()[1][0])) % 10
        thought.append(f" {written[name]} = {total},")
    return Ledger([written[name] for name in trail], shuffled, "".join(thought), str(total))


def _pose_ledger(dice: random.Random, kind: Kind, *, level: int, seed: int, size: Size) -> Problem:
    """A ledger whose notes are hidden in the text."""
    ledger = draw_ledger(dice, steps=size.steps, notes=size.notes)
    text = _scatter(dice, [f"{note}." for note in ledger.shuffled], size.filler_words)
    return Problem(
        kind=kind,
        level=level,
        seed=seed,
        question=f"{text} {ledger.ask}",
        thought=ledger.thought,
        answer=ledger.answer,
    )


def _pose_puzzle(dice: random.Random, kind: Kind, *, level: int, seed: int, size: Size) -> Problem:
    """A puzzle of reasoning-gym, word for word, somewhere in the text."""
    puzzle = _puzzles(kind, level)[seed]
    metadata = puzzle["metadata"]
    if kind == "leg_counting":
        thought = _reason_legs(metadata["animals"])
    else:
        thought = _reason_sum(metadata["expression"])
    text = _scatter(dice, [puzzle["question"].strip()], size.filler_words)
    return Problem(
        kind=kind,
        level=level,
        seed=seed,
        question=f"{text} what is the answer to the problem?",
        thought=thought,
        answer=puzzle["answer"],
    )


def _reason_legs(animals: dict[str, int]) -> str:
    """`3 ants, 1 bird` becomes ` 3 ants 18: 0 + 18 = 18: ants, 1 bird 2: 18 + 2 = 20: bird,`.

    Each step ends as the question's list goes on, so that the next item can be looked up.
    """
    total, steps = 0, []
    for animal, count in animals.items():
        before, legs = total, count * LEGS[animal]
        total += legs
        named = f"{animal}{'s' if count > 1 else ''}"
        steps.append(f" {count} {named} {legs}: {before} + {legs} = {total}: {named},")
    return "".join(steps)


def _reason_sum(expression: str) -> str:
    """`4 - 1 - 7` becomes ` 4 - 1: 4 - 1 = 3, - 1 - 7: 3 - 7 = -4,`.

    Each step names the term before its own, by which its own can be looked up.
    """
    first, *rest = expression.split()
    total, named, steps = int(first), first, []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        before, total = total, total + int(f"{sign}{term}")
        steps.append(f" {named} {sign} {term}: {before} {sign} {term} = {total},")
        named = f"{sign} {term}"
    return "".join(steps)


def _puzzle_sizes(kind: Kind, level: int) -> dict[str, int]:
    """How large reasoning-gym makes a puzzle of a level."""
    if kind == "leg_counting":
        fewest, most = LEG_COUNTING_ANIMALS[level]
        return {"min_animals": fewest, "max_animals": most, "max_instances": 5}
    fewest, most = CHAIN_SUM_TERMS[level]
    return {"min_terms": fewest, "max_terms": most, "min_digits": 1, "max_digits": 1}


@cache
def _puzzles(kind: Kind, level: int) -> Any:
    """reasoning-gym's puzzles of one kind and level, with their scorer; the index is the seed."""
    try:
        import reasoning_gym
    except ModuleNotFoundError:
        raise ValueError(
            f"problems of the kind {kind!r} come from the package reasoning-gym, which is not "
            "installed; pip install 'snello[demo]', or ask for the kind 'ledger' alone."
        ) from None
    return reasoning_gym.create_dataset(kind, size=2**31, seed=0, **_puzzle_sizes(kind, level))
