"""Where tokens live, and how much one step may do. Knows nothing of tensors or files.

How tokens are chosen is `config.sampling`; its class is named here too, because whoever builds an
engine wants both.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from snello.config.sampling import SamplingConfig

__all__ = ["Device", "Dtype", "EngineConfig", "MemoryKind", "SamplingConfig"]

MemoryKind = Literal["dense", "sparse", "window"]
PolicyName = Literal[
    "streaming", "random", "h2o", "tova", "snapkv", "rkv", "tri", "quest", "offload"
]
"""Rules of forgetting that need no training, beside the window; see `config.policy`."""

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
KvDtype = Literal["auto", "float32", "bfloat16", "float16"]
SurvivorFormat = Literal["same", "int8", "fp8", "int4"]
WeightFormat = Literal["int8", "int4"]
Group = Literal[32, 64, 128]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheConfig:
    """Which states of texts are kept for whoever comes with the same beginning."""

    pool_share: float = 0.25
    """The most of the page pool that may be held for no request's sake; it is given up, least
    recently used first, whenever a request needs it."""

    max_checkpoints: int = 64
    """The most states that are kept at the same time."""

    min_tokens: int = 32
    """Texts shorter than this are not worth a state."""

    every_tokens: int = 2048
    """A long prompt is kept about so often on its way, too, where one of its chunks ends."""

    def __post_init__(self) -> None:
        if not 0.0 < self.pool_share <= 1.0:
            raise ValueError(
                f"PrefixCacheConfig.pool_share is {self.pool_share}; it must be above 0 and at "
                "most 1. For no prefix cache, give None instead of a PrefixCacheConfig."
            )
        for name in ("max_checkpoints", "min_tokens", "every_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"PrefixCacheConfig.{name} is {getattr(self, name)}; it must be at least 1."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Which memory the engine runs on, how large it is, and how much one step may do."""

    memory: MemoryKind | None = None
    """`dense` keeps all, `sparse` forgets what the model marks, `window` keeps the last tokens
    only; without it, sparse where the model has learned to forget, else dense."""

    window_tokens: int | None = None
    """How many past tokens are always visible; without it, what the model was retrofitted with."""

    policy: str | None = None
    """Forget by another rule instead: `streaming:window=60`, `random:keep=0.1,window=16`,
    `h2o:budget=64`, `tova:...`, `snapkv:...`, `rkv:...`,
    `tri:budget=64,centres=FILE` `quest:budget=64` or
    `offload:window=64`."""

    kv_memory_mib: int | None = None
    """Size of the page pool; without it, enough for `max_sequences` full contexts, at most 1024."""

    page_tokens: int = 16
    """Tokens of one head that one page holds."""

    max_batch_tokens: int = 2048
    """The most tokens, of prompts and replies together, that one step computes."""

    max_sequences: int = 64
    """The most requests that are worked on at the same time."""

    prefix_cache: Annotated[PrefixCacheConfig | None, tyro.conf.AvoidSubcommands] = None
    """Keep states of prompts and replies, so that equal beginnings are computed once; None: no."""

    swap_mib: int = 0
    """Memory beside the pool for requests that had to give way, where moving their tokens is
    quicker than computing them again; 0: always compute again."""

    reserve_fraction: float = 0.05
    """Share of the pool that newcomers leave free, in case others grow more than expected."""

    dtype: Dtype = "float32"
    device: Device = "cpu"

    kv_dtype: KvDtype = "auto"
    """What tokens are stored in; `auto`: what is computed in, `dtype`."""

    survivors: SurvivorFormat = "same"
    """Store what left the window in `int8`, `fp8` (e4m3) or `int4`, each key and value under a
    scale of its own; `same`: like the window, which always stays exact. Not for dense memory."""

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
        if self.swap_mib < 0:
            raise ValueError(
                f"EngineConfig.swap_mib is {self.swap_mib}; it must be 0 or more. With 0, "
                "requests that give way are computed again."
            )
        if not 0.0 <= self.reserve_fraction < 1.0:
            raise ValueError(
                f"EngineConfig.reserve_fraction is {self.reserve_fraction}; it must be at least 0 "
                "and below 1. 0.05 leaves a twentieth of the pool free."
            )
