import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from snello.cache.training import Softening, TrainingMemory, measure_documents, measure_factor
from snello.config.dms import DecisionConfig
from snello.config.model import CacheShape, Horizon
from snello.dms.loss import compression_loss
from snello.ops.soft_attend import Layout, resolve

SHAPE = CacheShape(num_heads=2, key_size=8, value_size=8)
LATENT = CacheShape(num_heads=1, key_size=8, value_size=5, value_in_key=True)
PACKED = torch.tensor([[0] * 12 + [1] * 8, [0] * 15 + [-1] * 5])
DECISION = DecisionConfig(window_tokens=3)


def make_memory(
    segments=PACKED, shapes=(SHAPE,), *, decision=DECISION, softening="soft", attend="blockwise"
):
    if softening == "soft":
        rows = tuple((0, 5, row) for row in range(len(segments)))
        softening = Softening(row_keys=rows)
    return TrainingMemory(
        segments, shapes, attend=resolve(attend), decision=decision, softening=softening
    )


def make_numbers(num_rows, *, shape=SHAPE, num_query_heads=4):
    q = torch.randn(num_rows, num_query_heads, shape.key_size, requires_grad=True)
    k = torch.randn(num_rows, shape.num_heads, shape.key_size, requires_grad=True)
    v = torch.randn(num_rows, shape.num_heads, shape.value_size, requires_grad=True)
    logits = torch.randn(num_rows, shape.num_heads, requires_grad=True)
    return q, k, None if shape.value_in_key else v, logits


def attend(memory, numbers, layer=0):
    return memory.attend(layer, *numbers, scale=0.3)


def test_positions_and_lengths_are_those_of_the_documents():
    memory = make_memory()
    assert memory.positions.tolist() == [*range(12), *range(8), *range(15), *range(5)]
    assert memory.lengths.tolist() == [12] * 12 + [8] * 8 + [15] * 15 + [5] * 5


def test_documents_are_measured_from_positions():
    positions = torch.tensor([[0, 1, 0, 0, 1, 2]])
    assert measure_documents(positions).tolist() == [[2, 2, 1, 3, 3, 3]]


class TestGradients:
    def test_reach_the_decision_from_the_distillation_term(self):
        """Through log_keep alone: the evicted share is not looked at."""
        numbers = make_numbers(40)
        attend(make_memory(), numbers).square().sum().backward()
        assert numbers[3].grad.abs().sum() > 0

    def test_reach_the_decision_from_the_compression_term(self):
        """Through straight-through alpha alone: the answer is not looked at."""
        numbers, memory = make_numbers(40), make_memory()
        attend(memory, numbers)
        compression_loss(memory.mean_alpha(), 0.99).backward()
        assert numbers[0].grad is None
        grad = numbers[3].grad
        assert (grad <= 0).all()  # a higher logit evicts more and costs less
        assert grad.abs().sum() > 0

    def test_stop_when_enough_is_evicted(self):
        numbers, memory = make_numbers(40), make_memory()
        attend(memory, numbers)
        compression_loss(memory.mean_alpha(), 0.01).backward()
        assert not numbers[3].grad.any()

    def test_go_to_the_token_that_announced_and_never_to_padding(self):
        """Tokens 0 and 12 open documents, 35 and later are padding: nobody listens to them."""
        numbers, memory = make_numbers(40), make_memory()
        attend(memory, numbers)
        memory.mean_alpha().backward()
        grad = numbers[3].grad
        silent = [0, 12, 20, *range(35, 40)]
        assert not grad[silent].any()
        assert grad.ne(0).any(1).sum() == 40 - len(silent)

    def test_survive_activation_checkpointing(self):
        """Recomputation sees the same noise and leaves the same record."""
        results = []
        for again in (False, True):
            torch.manual_seed(0)
            numbers, memory = make_numbers(40), make_memory()

            def layer(q, k, v, logits, memory=memory):
                return memory.attend(0, q, k, v, logits, scale=0.3).sin()

            out = checkpoint(layer, *numbers, use_reentrant=False) if again else layer(*numbers)
            loss = out.square().sum() + compression_loss(memory.mean_alpha(), 0.9)
            loss.backward()
            results.append([loss.detach(), memory.mean_alpha(), *(x.grad for x in numbers)])
        for plain, recomputed in zip(*results, strict=True):
            assert plain.equal(recomputed)


class TestEviction:
    def test_a_window_longer_than_the_text_gives_the_dense_answers_exactly(self):
        numbers = make_numbers(40)
        wide = DecisionConfig(window_tokens=20)
        dense = attend(make_memory(decision=None, softening=None), numbers)
        assert attend(make_memory(decision=wide), numbers).equal(dense)
        assert attend(make_memory(decision=wide, softening=None), numbers).equal(dense)

    def test_the_teacher_asks_for_no_decision(self):
        memory = make_memory(decision=None, softening=None)
        assert not memory.wants_decisions
        q, k, v, _ = make_numbers(40)
        attend(memory, (q, k, v, None))
        assert memory.records == {}

    @pytest.mark.parametrize("shift", [0, 1])
    def test_hard_decisions_on_a_page_of_paper(self, shift):
        """Six tokens, window 1, tokens 1, 2 and 4 announce. At the end 4 and 5 are recent; with
        shift 1 tokens 0, 1, 3 are marked, so 2 survives; with shift 0 it is 0 and 3."""
        announce = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])[:, None]
        memory = make_memory(
            torch.zeros(1, 6, dtype=torch.long),
            (CacheShape(num_heads=1, key_size=6, value_size=6),),
            decision=DecisionConfig(window_tokens=1, shift=shift),
            softening=None,
        )
        eye = torch.eye(6)[:, None]
        weights = memory.attend(0, torch.zeros(6, 1, 6), eye, eye, announce, scale=1.0)[-1, 0]
        alive = {0: [0, 3, 4, 5], 1: [2, 4, 5]}[shift]
        assert weights.nonzero().flatten().tolist() == alive
        assert memory.records[0].live_tokens.tolist() == [len(alive)]
        assert measure_factor(memory) == pytest.approx(6 / len(alive))
        assert memory.mean_alpha().item() == pytest.approx(0.5)

    def test_a_shift_forgotten_would_be_noticed(self):
        numbers = make_numbers(40)
        answers = [
            attend(
                make_memory(decision=DecisionConfig(window_tokens=3, shift=s), softening=None),
                numbers,
            )
            for s in (0, 1)
        ]
        assert not answers[0].allclose(answers[1])

    def test_logits_far_from_zero_are_soft_and_hard_alike(self):
        """The noise is drowned: the relaxed student is the model that will be served."""
        q, k, v, logits = make_numbers(40)
        sure = 1e4 * logits.sign()
        soft, hard = make_memory(), make_memory(softening=None)
        torch.testing.assert_close(
            attend(soft, (q, k, v, sure)), attend(hard, (q, k, v, sure)), rtol=1e-5, atol=1e-5
        )
        assert soft.mean_alpha().item() == hard.mean_alpha().item()

    def test_packed_documents_answer_as_if_alone(self):
        """Hard decisions, so that no noise depends on the place in the row."""
        numbers = make_numbers(40)
        packed = attend(make_memory(softening=None), numbers)
        for start, stop in ((0, 12), (12, 20), (20, 35)):
            document = torch.zeros(1, stop - start, dtype=torch.long)
            alone = [x[start:stop] for x in numbers]
            answer = attend(make_memory(document, softening=None), alone)
            torch.testing.assert_close(packed[start:stop], answer)

    def test_one_decision_for_the_layer_sees_one_noise(self):
        q, k, v, logits = make_numbers(40)
        together = logits[:, :1].expand(-1, 2)
        for granularity, same in (("layer", True), ("head", False)):
            memory = make_memory(
                decision=DecisionConfig(window_tokens=3, granularity=granularity),
            )
            attend(memory, (q, k, v, together))
            first, second = memory.records[0].alpha_sum.tolist()
            assert (first == second) == same

    def test_noise_belongs_to_the_row_and_not_to_the_micro_batch(self):
        """Rows one by one give what they give together: any split of a step trains the same."""
        numbers = make_numbers(40)
        together = make_memory()
        answer, alpha = attend(together, numbers), together.sum_alpha().item()
        parts, alphas = [], []
        for row in range(2):
            memory = make_memory(
                PACKED[row : row + 1], softening=Softening(row_keys=((0, 5, row),))
            )
            parts.append(attend(memory, [x[20 * row : 20 * row + 20] for x in numbers]))
            alphas.append(memory.sum_alpha().item())
        torch.testing.assert_close(torch.cat(parts), answer)
        assert sum(alphas) == pytest.approx(alpha)


class TestLayers:
    def test_the_soft_mask_is_that_of_the_reference(self):
        numbers = make_numbers(40)
        torch.testing.assert_close(
            attend(make_memory(), numbers), attend(make_memory(attend="reference"), numbers)
        )

    def test_the_value_of_latent_attention_is_the_start_of_its_key(self):
        q, k, _, logits = make_numbers(40, shape=LATENT)
        latent = attend(make_memory(shapes=(LATENT,)), (q, k, None, logits))
        plain = CacheShape(num_heads=1, key_size=8, value_size=5)
        apart = attend(make_memory(shapes=(plain,)), (q, k, k[..., :5], logits))
        assert latent.shape == (40, 4, 5)
        assert latent.equal(apart)

    def test_each_layer_has_its_own_horizon_noise_and_record(self):
        near = CacheShape(
            num_heads=2,
            key_size=8,
            value_size=8,
            horizon=Horizon(kind="sliding", span_tokens=2),
        )
        memory, numbers = make_memory(shapes=(SHAPE, near, SHAPE)), make_numbers(40)
        answers = [attend(memory, numbers, layer) for layer in range(3)]
        assert not answers[0].equal(answers[1])
        assert not answers[0].equal(answers[2])
        assert memory.records[1].dense_tokens.item() == 3 * 2
        assert memory.records[1].live_tokens.tolist() == [6, 6]
        assert memory.num_decisions == 35 * 6

    def test_attention_answers_as_soft_attend_does(self):
        numbers = make_numbers(40)
        q, k, v = (x.view(2, 20, *x.shape[1:]).transpose(1, 2) for x in numbers[:3])
        wanted = resolve("reference")(q, k, v, None, Layout(PACKED, 0, Horizon()), scale=0.3)
        answer = attend(make_memory(decision=None, softening=None), (*numbers[:3], None))
        torch.testing.assert_close(answer, wanted.transpose(1, 2).flatten(0, 1))


def test_kept_fractions_and_factor_count_the_window():
    """Everything marked: of 12, 8 and 15 tokens each document keeps its window, 4."""
    memory = make_memory(softening=None)
    q, k, v, logits = make_numbers(40)
    attend(memory, (q, k, v, torch.ones_like(logits)))
    assert memory.kept_fractions()[0].tolist() == pytest.approx([12 / 35, 12 / 35])
    assert measure_factor(memory) == pytest.approx(35 / 12)


def test_mean_alpha_is_near_zero_at_the_start():
    """Every logit is -5: about 0.67 % is evicted by noise alone."""
    segments = torch.zeros(4, 2000, dtype=torch.long)
    memory = make_memory(segments, attend="blockwise")
    logits = torch.full((8000, 2), -5.0)
    numbers = make_numbers(8000, num_query_heads=2)[:3]
    with torch.no_grad():
        attend(memory, (*numbers, logits))
    expected = 1 / (1 + math.exp(5))
    assert memory.mean_alpha().item() == pytest.approx(expected, abs=0.003)
    assert measure_factor(memory) == 1.0


def test_a_softening_for_other_rows_is_refused():
    with pytest.raises(ValueError, match="names 3 rows, but the micro batch has 2"):
        make_memory(softening=Softening(row_keys=((0,), (1,), (2,))))


def test_a_softening_without_a_decision_is_refused():
    with pytest.raises(ValueError, match="give both"):
        make_memory(decision=None)
