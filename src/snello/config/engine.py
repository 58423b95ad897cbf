"""Where tokens live, and how much one step may do. Knows nothing of tensors or files.

How tokens are chosen is `config.sampling`; its class is named here too, because whoever builds an
engine wants both.
"""

from dataclasses import dataclass
from typing import Literal

from snello.config.sampling import SamplingConfig

__all__ = ["Device", "Dtype", "EngineConfig", "MemoryKind", "SamplingConfig"]

MemoryKind = Literal["dense", "sparse", "window"]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
WeightFormat = Literal["int8", "int4"]
Group = Literal[32, 64, 128]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Which memory the engine runs on, how large it is, and how much one step may do."""

    memory: MemoryKind | None = None
    """`dense` keeps all, `sparse` forgets what the model marks, `window` keeps the last tokens
    only; without it, sparse where the model has learned to forget, else dense."""

    window_tokens: int | None = None
    """How many past tokens are always visible; without it, what the model was retrofitted with."""

    kv_memory_mib: int | None = None
    """Size of the page pool; without it, enough for `max_sequences` full contexts, at most 1024."""

    page_tokens: int = 16
    """Tokens of one head that one page holds."""

    max_batch_tokens: int = 2048
    """The most tokens, of prompts and replies together, that one step computes."""

    max_sequences: int = 64
    """The most requests that are worked on at the same time."""

    dtype: Dtype = "float32"
    device: Device = "cpu"

    weights: WeightFormat | None = None
    """Round the weights to `int8` or `int4` on loading (CPU only); without it, they are as in the
    folder."""

    weights_group: Group = 64
    """How many inputs share a scale of rounded weights: fewer is closer to the original and reads
    more bytes."""

    def __post_init__(self) -> None:
        counts = {
            "window_tokens": self.window_tokens,
            "kv_memory_mib": self.kv_memory_mib,
            "page_tokens": self.page_tokens,
            "max_batch_tokens": self.max_batch_tokens,
            "max_sequences": self.max_sequences,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"EngineConfig.{name} is {count}; it must be at least 1.")
