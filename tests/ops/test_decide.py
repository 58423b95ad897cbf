"""Eviction logits on a page of paper, and the kernel against the reference."""

import pytest
import torch

from snello.ops.decide import resolve
from snello.ops.native import load_library

needs_kernels = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernels)])
def test_a_row_on_a_page_of_paper(backend):
    """(3, 4) is (0.6, 0.8) * sqrt(2) when normed; one head reads the first number, one both."""
    x, norm = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    logits = resolve(backend)(x, norm, weight, eps=0.0, scale=10.0, offset=5.0)
    expected = 10 * 2**0.5 * torch.tensor([[0.6, 2.2]]) - 5
    assert torch.allclose(logits, expected)


@needs_kernels
@pytest.mark.parametrize("size", [1, 31, 64, 1000])
@pytest.mark.parametrize("columns", [1, 8])
@pytest.mark.parametrize("num_rows", [0, 1, 50])
def test_the_kernel_gives_what_the_reference_gives(num_rows, columns, size):
    x, norm, weight = torch.randn(num_rows, size), torch.rand(size), torch.randn(columns, size)
    rule = {"eps": 1e-6, "scale": 3.0, "offset": 1.5}
    found, expected = (resolve(b)(x, norm, weight, **rule) for b in ("cpu", "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@needs_kernels
def test_a_row_gives_the_same_bits_in_any_company():
    x, norm, weight = torch.randn(50, 96), torch.rand(96), torch.randn(4, 96)
    rule = {"eps": 1e-6, "scale": 3.0, "offset": 1.5}
    every = resolve("cpu")(x, norm, weight, **rule)
    assert torch.equal(every[7:8], resolve("cpu")(x[7:8], norm, weight, **rule))
