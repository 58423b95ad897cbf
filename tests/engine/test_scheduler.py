"""What runs when: token budgets, and a long random history in which nobody loses a token."""

import random

import pytest

from snello.config.engine import SamplingConfig
from snello.engine.request import Completion


class History:
    """Requests that come, go and are kept at random, on an engine that is too small for them."""

    def __init__(self, engine, seed):
        self.dice, self.engine = random.Random(seed), engine
        self.asked, self.aborted, self.kept, self.done = {}, set(), [], {}

    def ask(self):
        prompt = [self.dice.randrange(6, 97) for _ in range(self.dice.choice([1, 4, 9, 30]))]
        wish = SamplingConfig(
            temperature=self.dice.choice([0.0, 1.0]), seed=self.dice.randrange(99), max_new_tokens=9
        )
        number = self.engine.add(prompt, wish, keep=self.dice.random() < 0.3)
        self.asked[number] = (prompt, wish)

    def abort(self):
        unfinished = sorted(set(self.asked) - set(self.done) - self.aborted)
        if unfinished:
            number = self.dice.choice(unfinished)
            self.note(self.engine.abort(number))
            del self.done[number]
            self.aborted.add(number)

    def forget(self):
        if self.kept:
            self.engine.forget(self.kept.pop(self.dice.randrange(len(self.kept))))

    def step(self):
        for event in self.engine.step():
            if isinstance(event, Completion):
                self.note(event)

    def note(self, completion):
        self.done[completion.request] = completion
        if completion.sequence is not None:
            self.kept.append(completion.sequence)


@pytest.mark.parametrize("seed", [2, 3])
def test_a_random_history_gives_everyone_the_tokens_they_get_alone(bench, monkeypatch, seed):
    engine = bench.open(num_pages=48, max_sequences=7, max_batch_tokens=24)
    history, num_yields = History(engine, seed), 0
    yield_place = engine._scheduler._yield_place

    def counted(request):
        nonlocal num_yields
        num_yields += 1
        yield_place(request)

    monkeypatch.setattr(engine._scheduler, "_yield_place", counted)
    deeds = [history.ask, history.abort, history.forget, history.step]
    for _ in range(70):
        history.dice.choices(deeds, [30, 5, 4, 61])[0]()
    while engine.is_busy:
        history.step()
    while history.kept:
        history.forget()
    engine.memory.check()
    assert engine.memory.num_bytes_in_use == 0
    assert num_yields > 1, "the pool is too large to test anything"
    assert set(history.done) == set(history.asked) - history.aborted
    numbers = list(history.done)
    alone = [bench.open().generate([history.asked[n][0]], history.asked[n][1])[0] for n in numbers]
    assert [history.done[n].token_ids for n in numbers] == [c.token_ids for c in alone]


def test_steps_never_exceed_the_token_budget(bench, monkeypatch):
    sizes = []
    forward = type(bench.decoder).forward

    def counted(self, tokens, step):
        sizes.append(len(tokens))
        return forward(self, tokens, step)

    monkeypatch.setattr(type(bench.decoder), "forward", counted)
    engine = bench.open(max_batch_tokens=10)
    engine.generate([[7] * 23, [8] * 5, [9] * 14], SamplingConfig(max_new_tokens=6))
    assert max(sizes) == 10


def test_decoding_goes_on_while_a_long_prompt_is_read(bench):
    engine = bench.open(max_batch_tokens=8, eos_ids=())
    first = engine.add([7, 8], SamplingConfig(max_new_tokens=20))
    engine.step()
    engine.add([9] * 60, SamplingConfig(max_new_tokens=2))
    events = [engine.step() for _ in range(5)]
    assert [[event.request for event in step] for step in events] == [[first]] * 5
