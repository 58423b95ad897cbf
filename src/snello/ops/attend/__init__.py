"""Attention of queries over gathered keys, some of which are hidden, and the merging of parts.

`attend` is what a step calls when all keys are at hand; `attend_part` and `merge` serve contexts
that are read piece by piece. Knows nothing of pages, windows or positions: a boolean says who sees
what.

Dims: B batch, Q queries, H query heads, K key-value heads (head h reads key-value head
`h // (H // K)`), N keys, D key size, E value size.
"""

from snello.ops.attend.fused import attend
from snello.ops.attend.parts import Part, merge
from snello.ops.attend.reference import attend_part

__all__ = ["Part", "attend", "attend_part", "merge"]
