"""Which tokens a query may still see: the one place where the eviction rule is written.

Training's soft mask, prefill, decode and page reclaim all call these three functions; none of them
compares a position with a window or a horizon on its own. Knows nothing of pages or of decisions.

Dims: Q queries, T keys, K key-value heads. Positions count from 0 in the sequence.
"""

from snello.ops.retain.reference import in_sight, is_recent, retain

__all__ = ["in_sight", "is_recent", "retain"]
