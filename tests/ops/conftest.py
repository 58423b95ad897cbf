"""The compiled kernels, once for each set of instructions that they are written for."""

import pytest
import torch

from snello.ops.native import load_library


@pytest.fixture(params=["best", "avx2"])
def isa(request):
    """What kernels run on; "best" is AVX-512 where the processor has it."""
    if not load_library().is_loaded:
        if request.param != "best":
            pytest.skip(str(load_library().reason))
        yield
        return
    torch.ops.snello.limit_isa(request.param == "avx2")
    yield
    torch.ops.snello.limit_isa(False)
