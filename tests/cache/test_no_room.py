"""A step that finds no room leaves everything as it was, spare pages included."""

import pytest
import torch

from snello.cache.pages import OutOfPages
from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape
from snello.policies import Never


@torch.inference_mode()
def test_spare_pages_are_given_back_where_a_window_finds_none():
    """One page is free: the first sequence is handed it, the second needs one for its window."""
    shape = CacheShape(num_heads=1, key_size=4, value_size=4)
    rule = {"window_tokens": 7, "shift": 1, "policy": Never()}
    memory = SparseMemory((shape,), **rule, num_pages=4, page_tokens=4, max_sequences=2)
    first, second = memory.add(), memory.add()
    for sequence, count in ((first, 8), (second, 4)):
        step = memory.begin([sequence], [count])
        step.attend(0, *torch.randn(3, count, 1, 4), None, scale=1.0)
        memory.commit(step)
    with pytest.raises(OutOfPages):
        memory.begin([first, second], [1, 1])
    assert memory.store.pool.num_free == 1
    memory.check()
