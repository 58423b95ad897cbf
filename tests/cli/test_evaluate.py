"""Which memory is opened how when several answer the same problems."""

from snello.cli.evaluate import open_by_kind
from snello.config.engine import EngineConfig


def test_only_sparse_memory_stores_survivors_narrow(tiny_adapter):
    engine = EngineConfig(survivors="int4", kv_dtype="bfloat16", max_sequences=2, kv_memory_mib=1)
    open_memory = open_by_kind(tiny_adapter, tiny_adapter, engine)
    widths = {"dense": None, "sparse": None, "window": 4}
    memories = {kind: open_memory(kind, width).engine.memory for kind, width in widths.items()}
    formats = {kind: memory.survivor_format for kind, memory in memories.items()}
    assert formats == {"dense": "same", "sparse": "int4", "window": "same"}
    assert memories["sparse"].store.survivor_tokens == 4 * memories["dense"].store.page_tokens
