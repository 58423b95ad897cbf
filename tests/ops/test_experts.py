"""Experts: the product on a page of paper, and against every token's own sum."""

import pytest
import torch
from torch.nn import functional

from snello.ops.experts import resolve


def one_by_one(x, chosen, weights, gate_up, down, activation, weigh_input):
    """Each token and each choice on its own: slow, and plain to see."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for e, w in zip(chosen[t].tolist(), weights[t], strict=True):
            row = x[t] * w if weigh_input else x[t]
            gate, up = (gate_up[e] @ row).chunk(2)
            answer = down[e] @ (activation(gate) * up)
            out[t] += answer if weigh_input else answer * w
    return out


def test_two_experts_on_a_page_of_paper():
    """Expert 0 doubles, expert 1 triples; the token asks both, a quarter and three quarters."""
    gate_up = torch.tensor([[[1.0], [2.0]], [[1.0], [3.0]]])
    down = torch.ones(2, 1, 1)
    x, chosen = torch.tensor([[5.0]]), torch.tensor([[1, 0]])
    weights = torch.tensor([[0.75, 0.25]])
    out = resolve("reference")(x, chosen, weights, gate_up, down, torch.ones_like)
    assert out.tolist() == [[0.75 * 15.0 + 0.25 * 10.0]]


@pytest.mark.parametrize("weigh_input", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 63, 128, 200])
def test_grouped_experts_are_the_sum_over_tokens_and_choices(num_tokens, weigh_input):
    x = torch.randn(num_tokens, 6)
    chosen = torch.rand(num_tokens, 9).topk(3).indices
    chosen[chosen == 4] = 8  # expert 4 gets no token; a token may ask expert 8 twice
    weights = torch.rand(num_tokens, 3)
    gate_up, down = torch.randn(9, 10, 6), torch.randn(9, 6, 5)
    arguments = (x, chosen, weights, gate_up, down, functional.silu)
    out = resolve("reference")(*arguments, weigh_input=weigh_input)
    assert torch.allclose(out, one_by_one(*arguments, weigh_input), atol=1e-4)


def test_gradients_reach_tokens_weights_and_the_experts_that_were_asked():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0]])
    weights = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    gate_up = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    down = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)

    def apply(x, weights, gate_up, down):
        return resolve("reference")(x, chosen, weights, gate_up, down, functional.silu)

    assert torch.autograd.gradcheck(apply, (x, weights, gate_up, down))
    apply(x, weights, gate_up, down).sum().backward()
    assert gate_up.grad[1].abs().max() == 0.0


def test_experts_answer_in_the_dtype_of_the_tokens():
    x = torch.randn(5, 4).bfloat16()
    chosen, weights = torch.tensor([[0], [1], [1], [0], [1]]), torch.rand(5, 1)
    gate_up, down = torch.randn(2, 6, 4).bfloat16(), torch.randn(2, 4, 3).bfloat16()
    out = resolve("reference")(x, chosen, weights, gate_up, down, functional.silu)
    assert out.dtype == torch.bfloat16


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"backend is 'abacus'; it must be one of reference"):
        resolve("abacus")
