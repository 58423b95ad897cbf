"""Thousands of operations at random: every request gets the tokens it gets alone.

Prompts share beginnings, the pool is too small, and requests come, go, branch, are kept, saved,
restored, pushed out and aborted in any order. At the end the pool is whole.
"""

import random
from contextlib import suppress

import pytest
import torch

from snello.cache.pages import OutOfPages
from snello.config.engine import PrefixCacheConfig, SamplingConfig
from snello.engine.request import Completion

NUM_OPERATIONS = 80
NUM_PAGES = {"dense": 260, "sparse": 150, "int8": 130}
SETTINGS = {
    "plain": {},
    "prefix": {"prefix_cache": PrefixCacheConfig(min_tokens=3, every_tokens=12, pool_share=0.4)},
    "swap": {"swap_bytes": 30_000},
    "all": {
        "prefix_cache": PrefixCacheConfig(min_tokens=3, every_tokens=8, max_checkpoints=9),
        "swap_bytes": 60_000,
    },
}


class Oracle:
    """What each text is continued with by an engine that runs one request at a time."""

    def __init__(self, bench, kind):
        self.engine, self.known = bench.open(kind), {}

    def complete(self, text, sampling):
        key = (tuple(text), sampling)
        if key not in self.known:
            self.known[key] = self.engine.generate([text], sampling)[0].token_ids
        return self.known[key]


class Drive:
    """One engine, what was asked of it, and what it answered."""

    def __init__(self, engine, folder, seed):
        self.dice, self.engine, self.folder = random.Random(seed), engine, folder
        self.asked, self.done, self.kept = {}, {}, {}
        self.num_saved = 0

    def invent(self):
        """A text that begins as others do."""
        stem = [7 + self.dice.randrange(3)] * self.dice.choice([1, 5, 14])
        tail = [self.dice.randrange(6, 97) for _ in range(self.dice.choice([1, 2, 9, 20]))]
        return stem + tail if self.dice.random() < 0.7 else [*(stem * 3)[:24], 11]

    def wish(self):
        warm = SamplingConfig(
            temperature=1.0,
            seed=self.dice.randrange(4),
            max_new_tokens=self.dice.choice([1, 3, 9, 14]),
        )
        greedy = SamplingConfig(max_new_tokens=self.dice.choice([2, 9, 14]))
        return self.dice.choice([warm, greedy])

    def add(self):
        prompt, wish = self.invent(), self.wish()
        number = self.engine.add(prompt, wish, keep=self.dice.random() < 0.3)
        self.asked[number] = prompt, wish

    def add_samples(self):
        prompt, wishes = self.invent(), [self.wish() for _ in range(self.dice.choice([1, 2, 5]))]
        numbers = self.engine.add_samples(prompt, wishes)
        self.asked |= {number: (prompt, wish) for number, wish in zip(numbers, wishes, strict=True)}

    def take_turn(self):
        if self.kept:
            sequence = self.dice.choice(sorted(self.kept))
            text, wish = self.kept.pop(sequence), self.wish()
            more = self.invent()[:6]
            if len(text) < 90:
                number = self.engine.add(more, wish, sequence=sequence, keep=True)
                self.asked[number] = text + more, wish
            else:
                self.engine.forget(sequence)

    def save_and_restore(self):
        if self.kept:
            sequence = self.dice.choice(sorted(self.kept))
            path = self.folder / f"{self.num_saved}"
            self.num_saved += 1
            if self.engine._scheduler.idle[sequence].memory_sequence is None:
                with pytest.raises(ValueError, match="gave its memory"):
                    self.engine.save(sequence, path)
                return
            self.engine.save(sequence, path)
            self.engine.forget(sequence)
            text = self.kept.pop(sequence)
            with suppress(OutOfPages):
                self.kept[self.engine.restore(path)] = text

    def forget(self):
        if self.kept:
            sequence = self.dice.choice(sorted(self.kept))
            self.engine.forget(sequence)
            del self.kept[sequence]

    def abort(self):
        unfinished = sorted(set(self.asked) - set(self.done))
        if unfinished:
            completion = self.engine.abort(self.dice.choice(unfinished))
            text, _ = self.asked.pop(completion.request)
            if completion.sequence is not None:
                self.kept[completion.sequence] = text + completion.token_ids

    @torch.inference_mode()
    def push_out(self):
        running = self.engine._scheduler.running
        if len(running) > 1:
            self.engine._scheduler._yield_place(self.dice.choice(running))

    def step(self):
        for event in self.engine.step():
            if isinstance(event, Completion):
                self.done[event.request] = event.token_ids
                assert event.finish_reason in ("eos", "length")
                if event.sequence is not None:
                    text, _ = self.asked[event.request]
                    self.kept[event.sequence] = text + event.token_ids

    def run(self, num_operations):
        deeds = {
            self.step: 50,
            self.add: 14,
            self.add_samples: 7,
            self.take_turn: 5,
            self.save_and_restore: 2,
            self.forget: 2,
            self.abort: 4,
            self.push_out: 14,
        }
        for number in range(num_operations):
            self.dice.choices(list(deeds), list(deeds.values()))[0]()
            if number % 20 == 0:
                self.engine.memory.check()
        while self.engine.is_busy:
            self.step()


def drive(bench, kind, settings, folder, *, seed, num_operations):
    """Run at random, then compare with the oracle, then count pages."""
    engine = bench.open(
        kind,
        num_pages=NUM_PAGES[kind],
        max_sequences=8,
        max_batch_tokens=24,
        **SETTINGS[settings],
    )
    driver, oracle = Drive(engine, folder, seed), Oracle(bench, kind)
    driver.run(num_operations)
    assert set(driver.done) == set(driver.asked)
    for number, (text, wish) in driver.asked.items():
        assert driver.done[number] == oracle.complete(text, wish), number
    while driver.kept:
        driver.forget()
    engine.memory.check()
    engine.drop_prefixes()
    engine.memory.check()
    assert engine.memory.num_bytes_in_use == 0
    assert engine.memory.num_unused_sequences == 64
    return engine.tally


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("dense", "all"), *(("sparse", settings) for settings in SETTINGS), ("int8", "all")],
)
def test_any_order_of_operations_changes_no_token(bench, tmp_path, kind, settings):
    tally = drive(bench, kind, settings, tmp_path, seed=1, num_operations=NUM_OPERATIONS)
    assert tally.num_preemptions > 1
    assert (tally.num_prefix_hits > 0) == ("prefix_cache" in SETTINGS[settings])
    assert (tally.num_moved > 1) == ("swap_bytes" in SETTINGS[settings])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("kind", list(NUM_PAGES))
def test_a_long_time_of_any_operations(bench, tmp_path, kind, settings, seed):
    drive(bench, kind, settings, tmp_path, seed=seed, num_operations=2000)
