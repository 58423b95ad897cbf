"""The norm on a page of paper, and the kernel against the reference."""

import pytest
import torch

from snello.ops.native import load_library
from snello.ops.norm import resolve

pytestmark = pytest.mark.usefixtures("isa")


def test_norm_on_a_page_of_paper():
    """3 and 4 have the root mean square 5 / sqrt(2)."""
    out = resolve("reference")(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 10.0]), 0.0)
    expected = torch.tensor([[3.0, 40.0]]) * 2**0.5 / 5
    assert torch.allclose(out, expected)


@pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
@pytest.mark.parametrize("size", [1, 63, 128, 200])
@pytest.mark.parametrize("num_rows", [0, 1, 63])
def test_the_kernel_gives_what_the_reference_gives(num_rows, size):
    x, weight = torch.randn(num_rows, size), torch.rand(size)
    torch.testing.assert_close(
        resolve("cpu")(x, weight, 1e-6), resolve("reference")(x, weight, 1e-6), rtol=1e-5, atol=1e-5
    )
