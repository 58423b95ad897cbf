"""Norm and rotation of heads on a page of paper, and the kernel against the reference."""

import pytest
import torch

from snello.ops.native import load_library
from snello.ops.place import resolve

needs_kernels = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernels)])
def test_a_head_on_a_page_of_paper(backend):
    """3 and 4 have the root mean square 5 / sqrt(2); a quarter turn sends (a, b) to (-b, a)."""
    x = torch.tensor([[[3.0, 4.0]]])
    quarter = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    turned = resolve(backend)(x, None, *quarter, eps=0.0, interleaved=False)
    assert turned.tolist() == [[[-4.0, 3.0]]]
    normed = resolve(backend)(x, torch.tensor([1.0, 10.0]), *quarter, eps=0.0, interleaved=False)
    assert torch.allclose(normed, torch.tensor([[[-40.0, 3.0]]]) * 2**0.5 / 5)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernels)])
@pytest.mark.parametrize(
    ("interleaved", "expected"),
    [(False, [-3.0, 2.0, 1.0, 4.0, 5.0]), (True, [-2.0, 1.0, 3.0, 4.0, 5.0])],
)
def test_pairs_are_halves_or_neighbours_and_the_rest_passes(backend, interleaved, expected):
    """The first pair takes a quarter turn, the second none, the fifth number is in no pair."""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    out = resolve(backend)(x, None, cos, sin, eps=0.0, interleaved=interleaved)
    assert out.tolist() == [[expected]]


@needs_kernels
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("size", "pairs"), [(8, 4), (128, 64), (80, 16), (65, 30)])
@pytest.mark.parametrize("is_normed", [False, True])
def test_the_kernel_gives_what_the_reference_gives(size, pairs, interleaved, is_normed):
    """Also for heads cut out of a wider row."""
    x = torch.randn(37, 9, size)[:, 2:7]
    angles = torch.randn(37, pairs)
    weight = torch.rand(size) if is_normed else None
    rule = {"eps": 1e-6, "interleaved": interleaved}
    given = x, weight, angles.cos(), angles.sin()
    found, expected = (resolve(backend)(*given, **rule) for backend in ("cpu", "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_a_head_gives_the_same_bits_in_any_company():
    x, angles, weight = torch.randn(70, 4, 32), torch.randn(70, 16), torch.rand(32)
    rule = {"eps": 1e-6, "interleaved": False}
    every = resolve("cpu")(x, weight, angles.cos(), angles.sin(), **rule)
    one = resolve("cpu")(x[5:6, 1:2], weight, angles[5:6].cos(), angles[5:6].sin(), **rule)
    assert torch.equal(every[5:6, 1:2], one)


@needs_kernels
def test_what_does_not_fit_is_refused():
    x, angles = torch.randn(2, 3, 8), torch.randn(2, 5)
    place = torch.ops.snello.place
    with pytest.raises(RuntimeError, match="heads of 8 numbers and 5 pairs"):
        place(x, None, angles, angles, 0.0, False)
    with pytest.raises(RuntimeError, match="as long as a head"):
        place(x, torch.ones(7), angles[:, :4].contiguous(), angles[:, :4].contiguous(), 0.0, False)
