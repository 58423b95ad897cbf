"""Expected scores of future queries, against the sum of cosines that the paper states."""

import math

import pytest
import torch

from snello.cache.open import choose_memory, open_memory
from snello.cache.store import EMPTY
from snello.config.model import CacheShape
from snello.config.policy import parse_policy
from snello.ops.place.reference import rotate
from snello.policies import build_rule
from snello.policies.rule import Rule, Sight
from snello.policies.trigonometric import FARTHEST_TOKENS, Centres, Trigonometric

R, K, G, N = 3, 2, 2, 9


def make_centres(*, interleaved=False):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(1, K * G, 2 * R, generator=generator)
    spread = torch.rand(1, K * G, R, generator=generator)
    return Centres(mean, spread, torch.tensor([1.0, 0.1, 0.01]), interleaved)


def see(keys, positions):
    """What one sequence's heads hold in layer 0; nobody's attention is asked for."""
    is_live = positions < EMPTY
    nothing = torch.zeros(1, K * G, 1, keys.shape[2])
    return Sight(
        scores=nothing,
        weights=nothing,
        keys=keys,
        positions=positions,
        is_live=is_live,
        last=positions[is_live].max()[None],
        layer=0,
        notes=torch.zeros(*positions.shape, 0),
    )


def pair(x, index, interleaved):
    """The index-th pair of numbers as one complex number."""
    x = x.tolist()
    return complex(*((x[2 * index : 2 * index + 2]) if interleaved else (x[index], x[R + index])))


def score_by_cosines(centres, head, key, position, last):
    """Amplitudes and phases of the unrotated key, averaged over distances; then the scatter."""
    offsets = [2**i for i in range(17)]
    total = 0.0
    for r, omega in enumerate(centres.frequencies.tolist()):
        q = pair(centres.mean[0, head], r, centres.interleaved)
        k = pair(key, r, centres.interleaved)
        relative = q * k.conjugate()
        phase = math.atan2(relative.imag, relative.real)
        waves = [math.cos((last - position + d) * omega + phase) for d in offsets]
        total += abs(q) * abs(k) * sum(waves) / len(waves)
        total += float(centres.spread[0, head, r]) * abs(k)
    return total


@pytest.mark.parametrize("interleaved", [False, True])
def test_ranks_are_those_of_the_cosines(interleaved):
    assert FARTHEST_TOKENS == 2**16
    centres = make_centres(interleaved=interleaved)
    keys = torch.randn(1, K, N, 2 * R, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([0, 2, 3, 7, 8, 11, 12, 13, 14]).expand(1, K, N)
    angles = positions[0, 0][:, None] * centres.frequencies
    turn = {"cos": angles.cos(), "sin": angles.sin(), "interleaved": interleaved}
    stored = torch.stack([rotate(head[:, None], **turn)[:, 0] for head in keys[0]])[None]
    ranks = Trigonometric(4, centres).expect(see(stored, positions))[0]
    for h in range(K):
        rows = []
        for head in range(h * G, (h + 1) * G):
            row = [
                score_by_cosines(centres, head, keys[0, h, n], int(positions[0, h, n]), 14)
                for n in range(N)
            ]
            mean = sum(row) / N
            deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / N)
            rows.append([(value - mean) / deviation for value in row])
        expected = [max(pair) for pair in zip(*rows, strict=True)]
        torch.testing.assert_close(ranks[h].tolist(), expected, atol=2e-3, rtol=0)


def test_a_full_head_is_cut_to_the_best_and_the_newest():
    """Budget 8, three at once: of nine tokens five stay, the newest two and the best three."""
    keys = torch.randn(1, K, N, 2 * R, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(N).flip(0).expand(1, K, N)  # places are in any order
    rule, sight = Trigonometric(8, make_centres(), every=3, recent=2), see(keys, positions)
    keep = rule.decide(sight).keep[0]
    ranks = rule.expect(sight)[0]
    for h in range(K):
        older = sorted(range(2, N), key=lambda n: -float(ranks[h, n]))
        assert keep[h].nonzero().flatten().tolist() == sorted([0, 1, *older[:3]])
    roomy = Trigonometric(9, make_centres(), every=3, recent=2)
    assert roomy.decide(sight).keep.all()
    assert isinstance(roomy, Rule)
    assert (rule.limit, rule.chunk_limit) == (8, 8)


def test_an_empty_place_counts_for_nothing():
    keys = torch.randn(1, K, N, 2 * R, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(N).expand(1, K, N)
    rule = Trigonometric(4, make_centres())
    expected = rule.expect(see(keys[:, :, :6], positions[:, :, :6]))
    keys[:, :, 6:] = torch.nan
    gaps = positions.where(positions < 6, EMPTY)
    found = see(keys, gaps)
    torch.testing.assert_close(rule.expect(found)[..., :6], expected)
    assert not rule.decide(found).keep[..., 6:].any()


@pytest.mark.parametrize(
    ("shapes", "is_fit"),
    [((CacheShape(num_heads=2, key_size=6, value_size=6),), True),
     ((CacheShape(num_heads=2, key_size=6, value_size=6),) * 2, False),
     ((CacheShape(num_heads=3, key_size=6, value_size=6),), False),
     ((CacheShape(num_heads=2, key_size=8, value_size=8),), False),
     ((CacheShape(num_heads=1, key_size=6, value_size=6, value_in_key=True),), False)],
)  # fmt: skip
def test_centres_of_another_model_are_refused(tmp_path, shapes, is_fit):
    make_centres().save(tmp_path / "centres")
    written = f"tri:budget=8,centres={tmp_path / 'centres'}"
    plan = choose_memory(None, None, None, "same", parse_policy(written, "a test"))
    room = {"budget_bytes": 2**20, "max_sequences": 4, "page_tokens": 4}
    if is_fit:
        assert isinstance(open_memory(shapes, plan, **room).rule, Trigonometric)
        return
    with pytest.raises(ValueError, match="1 layers with 4 query heads of 6 numbers, and this mod"):
        open_memory(shapes, plan, **room)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="keeps recent=7 newest tokens; give a larger budget"):
        Trigonometric(8, make_centres(), every=2, recent=7)


def test_centres_are_written_and_read(tmp_path):
    centres = make_centres(interleaved=True)
    centres.save(tmp_path / "centres.safetensors")
    again = Centres.load(tmp_path / "centres.safetensors")
    assert torch.equal(again.mean, centres.mean)
    assert torch.equal(again.spread, centres.spread)
    assert again.interleaved


def test_a_file_that_is_none_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="none holds no centres"):
        build_rule(parse_policy(f"tri:budget=8,centres={tmp_path / 'none'}", "a test"))
    with pytest.raises(ValueError, match="holds no centres of queries"):
        Centres.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="measure_centres"):
        Centres.load(tmp_path / "text")
