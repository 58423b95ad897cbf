"""What all benchmarks stand on: forced shares, filled contexts, counted bytes, drawn lengths."""

from itertools import islice, pairwise
from statistics import fmean, median

import pytest
import torch

from benchmarks.filling import Filler, spread_evenly
from benchmarks.model import SPREAD, choose_shares, draw_rows
from benchmarks.record import record, summarize
from benchmarks.report import render
from benchmarks.traffic import Traffic, count_attention, count_weights, token_bytes, weight_bytes
from benchmarks.workload import Workload
from snello.cache.dense import DenseMemory
from snello.cache.pages import OutOfPages
from snello.cache.sparse import SparseMemory
from snello.config.dms import DecisionConfig
from snello.config.model import CacheShape, LayerConfig, ModelConfig, RopeConfig
from snello.dms.decision import marks
from snello.policies import Never

SHAPES = (CacheShape(num_heads=2, key_size=4, value_size=4),) * 3
KEPT = ([0.25, 0.05], [0.5, 0.1], [0.0, 1.0])
CONFIG = ModelConfig(
    family="qwen3",
    vocab_size=10,
    hidden_size=4,
    mlp_size=6,
    num_heads=2,
    num_kv_heads=1,
    head_size=8,
    layers=(LayerConfig(),) * 3,
    rope=RopeConfig(size=8),
    max_positions=64,
    attention_scale=1.0,
    tied=True,
)


def sparse(num_pages=4000):
    return SparseMemory(
        SHAPES,
        window_tokens=8,
        shift=1,
        policy=Never(),
        max_sequences=2,
        num_pages=num_pages,
        page_tokens=4,
    )


class TestShares:
    def test_their_mean_is_one_over_the_factor(self):
        for is_uneven in (False, True):
            assert fmean(choose_shares(8, 8, is_uneven=is_uneven)) == pytest.approx(1 / 8)

    def test_uneven_ones_lie_one_to_twenty_apart(self):
        shares = choose_shares(8, 8, is_uneven=True)
        assert max(shares) / min(shares) == pytest.approx(SPREAD)

    def test_a_row_marks_all_but_the_share_that_its_head_keeps(self):
        """A stream with a drift of its own, so that half of the rows must be turned round."""
        stream = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)) + 0.1
        decision = DecisionConfig(offset=-5.0)
        rows = draw_rows(stream, [0.125, 0.02, 0.4], decision, torch.Generator().manual_seed(1))
        logits = decision.scale * stream @ rows.T - decision.offset
        kept = 1.0 - marks(logits).float().mean(0)
        assert kept.tolist() == pytest.approx([0.125, 0.02, 0.4], abs=0.002)


class TestFilling:
    def test_any_stretch_keeps_its_share_to_one_token(self):
        kept = spread_evenly(torch.arange(50, 1050), [0.125, 0.3], layer=2)
        for start, end in pairwise([0, 10, 333, 1000]):
            for head, share in enumerate([0.125, 0.3]):
                count = int(kept[start:end, head].sum())
                assert abs(count - share * (end - start)) <= 1.0

    @pytest.mark.parametrize("num_tokens", [1, 8, 9, 10, 2500])
    def test_sparse_memory_holds_the_window_and_the_share_behind_it(self, num_tokens):
        memory = sparse()
        sequence = Filler(memory, KEPT).open(num_tokens)
        memory.check()
        assert memory.length(sequence) == num_tokens
        live = memory.num_live_tokens(sequence)
        behind = max(0, num_tokens - 9)
        expected = min(num_tokens, 9) + torch.tensor(KEPT) * behind
        assert (live - expected).abs().max() <= 1.0
        shown = memory.portrait(sequence)[0][0]
        assert len(shown) == live[0, 0]
        assert shown[-9:] == list(range(max(0, num_tokens - 9), num_tokens))

    def test_a_filled_sequence_goes_on_as_any_other(self):
        """Heads keep what they kept, and lose what was marked in the window it left."""
        memory = sparse()
        sequence = Filler(memory, KEPT).open(100)
        before = memory.portrait(sequence)
        for _ in range(12):
            step = memory.begin([sequence], [1])
            for layer in range(3):
                step.attend(layer, *torch.randn(3, 1, 2, 4), None, scale=0.5)
            memory.commit(step)
        memory.check()
        after = memory.portrait(sequence)
        kept = spread_evenly(torch.arange(100), KEPT[1], layer=1)
        for head in range(2):
            old = [position for position in before[1][head] if position < 91]
            gone = [p for p in range(91, 100) if kept[p, head] or p == 99]
            assert after[1][head] == [*old, *gone, *range(100, 112)]

    def test_dense_memory_holds_all(self):
        memory = DenseMemory(SHAPES, max_sequences=1, num_pages=2000, page_tokens=8)
        sequence = Filler(memory, KEPT).open(1500)
        memory.check()
        assert memory.portrait(sequence)[2][1] == list(range(1500))
        positions = memory.store.positions[memory.table.pages[2, sequence, 1]].flatten()
        assert positions[:1500].tolist() == list(range(1500))

    def test_what_does_not_fit_changes_nothing(self):
        memory = sparse(num_pages=40)
        with pytest.raises(OutOfPages):
            Filler(memory, KEPT).open(2500)
        memory.check()
        assert memory.num_bytes_in_use == 0


class TestTraffic:
    def test_weights_on_a_page_of_paper(self):
        """q and o: 4 x 16 each, k and v: 4 x 8 each, gate, up, down: 4 x 6 each; output 10 x 4."""
        layer = 2 * 64 + 2 * 32 + 3 * 24
        assert count_weights(CONFIG) == 3 * layer + 40
        assert count_weights(CONFIG, has_output=False) == 3 * layer
        assert weight_bytes(CONFIG, "int4", 32) == (3 * layer + 40) * (0.5 + 2 / 32)
        assert weight_bytes(CONFIG, "float32", 32) == (3 * layer + 40) * 4

    def test_tokens_on_a_page_of_paper(self):
        assert token_bytes(CONFIG, "bfloat16") == 2 * 8 * 2
        assert count_attention(CONFIG, 3) == 6 * 3 * 2 * (2 * 8 + 2 * 8)

    def test_percent_of_bandwidth(self):
        traffic = Traffic(weight_bytes=6e9, kv_bytes=2e9)
        assert traffic.percent_of(10e9, seconds=1.0) == pytest.approx(80.0)


class TestWorkload:
    workload = Workload(
        vocab_size=50, prompt_tokens=3, median_tokens=100, spread=0.7, most_tokens=900
    )

    def test_the_same_seed_asks_for_the_same(self):
        assert list(islice(self.workload.draw(4), 5)) == list(islice(self.workload.draw(4), 5))

    def test_lengths_have_their_median_and_a_long_tail(self):
        lengths = [wish.num_new_tokens for wish in islice(self.workload.draw(0), 2000)]
        assert median(lengths) == pytest.approx(100, rel=0.1)
        assert fmean(lengths) > 1.15 * median(lengths)
        assert max(lengths) <= 900

    def test_who_is_under_way_has_a_longer_reply_and_half_of_it(self):
        """A length L is met L / E[L] times as often: the mean of those met is E[L^2] / E[L]."""
        all_lengths = [wish.num_new_tokens for wish in islice(self.workload.draw(0), 4000)]
        expected = fmean(length**2 for length in all_lengths) / fmean(all_lengths)
        met = list(islice(self.workload.draw_underway(1), 2000))
        ages = [len(wish.prompt_ids) - 3 for wish in met]
        wholes = [age + wish.num_new_tokens for age, wish in zip(ages, met, strict=True)]
        assert fmean(wholes) == pytest.approx(expected, rel=0.1)
        assert fmean(ages) == pytest.approx(expected / 2, rel=0.1)


class TestEvidence:
    def test_percentiles(self):
        assert summarize([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0}
        assert summarize(list(range(11))) == {"p20": 2.0, "p50": 5.0, "p80": 8.0}

    def test_a_line_says_where_it_comes_from_and_the_table_shows_the_latest(self, tmp_path):
        rows = [
            record(
                tmp_path, "prefill", "s", [value], case={"who": "we"}, figures={"gflop_per_s": 7}
            )
            for value in (2.0, 4.0)
        ]
        assert {"device", "commit", "command", "when"} <= rows[0].keys()
        assert len((tmp_path / "prefill.jsonl").read_text().splitlines()) == 2
        table = render("prefill", rows)
        assert "| we | 4 | 4 | 4 | 7 |" in table
        assert "| we | 2 |" not in table
