"""Every way that pages are read and written: compiled kernels where they are, and plain torch."""

import pytest

from snello.cache import paged
from snello.ops.native import load_library

BACKENDS = ["cpu", "reference"] if load_library().is_loaded else ["reference"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """What a memory chooses if it is not told."""
    monkeypatch.setattr(paged, "choose_backend", lambda _: request.param)
    return request.param
