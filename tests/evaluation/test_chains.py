"""Chains on a tiny model: cut where a shorter run would end, at the costs that it would have."""

import pytest

from snello.config.sampling import SamplingConfig
from snello.evaluation.chains import Plan, grow_chains, seed_chain
from snello.evaluation.tasks.bundled import pose_fresh
from tests.evaluation.tiny import open_tiny

SAMPLING = SamplingConfig(temperature=0.8)
LENGTHS = (1, 5, 12)


def plan(served, index, *, chains=range(3), lengths=LENGTHS):
    problem = pose_fresh(index + 1, kinds=["ledger"], levels=[1], seed=0)[index]
    return Plan(
        name=f"q{index}",
        prompt_ids=served.codec.encode_chat(problem.messages),
        seeds={chain: seed_chain(0, "ledger", f"q{index}", chain) for chain in chains},
        lengths_tokens=lengths,
    )


def grow(folder, kind, plans):
    served = open_tiny(folder, kind)
    grown = grow_chains(served.engine, [plan(served, *p[:1], **p[1]) for p in plans], SAMPLING)
    return {(chain.name, chain.chain): chain for chain in grown}, served


@pytest.mark.parametrize("kind", ["dense", "sparse", "window:8"])
def test_a_cut_chain_is_what_a_shorter_run_gives(tiny_folder, kind):
    """Tokens, reads, live tokens and bytes, for chains that share a prompt and for lone ones."""
    kind, _, width = kind.partition(":")
    served = open_tiny(tiny_folder, kind, int(width) if width else None)
    whole = {c.chain: c for c in grow_chains(served.engine, [plan(served, 0)], SAMPLING)}
    prompt_reads = {chain.prompt_kv_reads for chain in whole.values()}
    assert len(prompt_reads) == 1
    for place, length in enumerate(LENGTHS):
        for number, chain in whole.items():
            wish = SamplingConfig(temperature=0.8, seed=chain.seed, max_new_tokens=length)
            alone = served.engine.wait_for(served.engine.add(plan(served, 0).prompt_ids, wish))
            mark = chain.marks[place]
            assert chain.token_ids[:length] == alone.token_ids, (number, length)
            assert mark.num_tokens == alone.num_generated_tokens
            reads = prompt_reads.copy().pop() + mark.kv_reads
            assert reads == pytest.approx(alone.kv_reads, rel=1e-12)
            assert mark.peak_live_tokens == alone.peak_live_tokens
            assert mark.peak_bytes == alone.peak_bytes


def test_dense_reads_are_counted_on_paper(tiny_folder):
    """A prompt of P tokens reads P(P+1)/2; with n tokens, n - 1 more have been read."""
    chains, _ = grow(tiny_folder, "dense", [(0, {})])
    for chain in chains.values():
        P = chain.prompt_tokens
        assert chain.prompt_kv_reads == P * (P + 1) / 2
        for mark in chain.marks:
            steps = range(P + 1, P + mark.num_tokens)
            assert mark.kv_reads == pytest.approx(sum(steps))
            assert mark.peak_live_tokens == P + mark.num_tokens - 1


def test_a_chain_is_the_same_without_the_others(tiny_folder):
    """What a resumed sweep computes: only chain 2, which then reads the prompt itself."""
    together, _ = grow(tiny_folder, "sparse", [(0, {}), (1, {})])
    alone, _ = grow(tiny_folder, "sparse", [(1, {"chains": [2]})])
    assert alone["q1", 2] == together["q1", 2]


def test_chains_differ_and_seeds_are_nobodys_but_theirs(tiny_folder):
    chains, _ = grow(tiny_folder, "sparse", [(0, {})])
    assert len({tuple(chain.token_ids) for chain in chains.values()}) == 3
    seeds = {
        seed_chain(seed, task, name, chain)
        for seed in (0, 1)
        for task in "ab"
        for name in ("q1", "q11")
        for chain in (0, 1, 11)
    }
    assert len(seeds) == 24
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_more_questions_than_fit_at_once_all_end(tiny_folder):
    chains, served = grow(tiny_folder, "sparse", [(i, {"lengths": (3,)}) for i in range(6)])
    assert len(chains) == 18
    assert served.engine.memory.num_bytes_in_use == 0
    assert not served.engine.is_busy


def test_whoever_stops_early_leaves_nothing_behind(tiny_folder):
    served = open_tiny(tiny_folder, "sparse")
    grown = grow_chains(served.engine, [plan(served, i) for i in range(3)], SAMPLING)
    next(grown)
    grown.close()
    assert served.engine.memory.num_bytes_in_use == 0
    assert not served.engine.is_busy


def test_a_prompt_that_is_too_long_is_refused(tiny_folder):
    served = open_tiny(tiny_folder, "sparse")
    long = Plan(name="q", prompt_ids=[5] * 2000, seeds={0: 1}, lengths_tokens=(4,))
    with pytest.raises(ValueError, match="the model's context holds 1024"):
        list(grow_chains(served.engine, [long], SAMPLING))
