"""Our engine as a contestant: threads of thought whose contexts were filled, not computed.

Knows nothing of peers, and takes steps only as a server would: `Engine.step`.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.filling import Filler, add_filled
from benchmarks.setting import Setting
from benchmarks.traffic import Traffic, dense_kv_bytes, token_bytes, weight_bytes
from snello.config.engine import MemoryKind, SamplingConfig
from snello.engine.build import Served, serve
from snello.engine.request import Token
from snello.models.adapter import read_card
from snello.models.families import read_model_config

POOL_SLACK = 1.25
MOST_PROMPT_TOKENS = 2048
"""A step that reads a prompt must have room even if it keeps everything."""


def read_kept(adapter: Path) -> list[list[float]]:
    """Return the share of tokens that each head of each layer keeps, as the adapter was made.

    Raises:
        ValueError: the folder is not of `benchmarks.model`.
    """
    card = read_card(adapter)
    if card is None or "kept" not in card.provenance:
        raise ValueError(f"{adapter} is not an adapter that benchmarks.model made.")
    return list(card.provenance["kept"])


class Ours:
    """Our engine on one memory.

    The engine is built when threads are opened, because its pool is as large as they need.
    """

    def __init__(self, setting: Setting, adapter: Path, kind: MemoryKind) -> None:
        self._setting, self.adapter, self._kind = setting, adapter, kind
        self.kept = read_kept(adapter)
        self.config = read_model_config(adapter.parent / "base")
        self.name = "dense" if kind == "dense" else adapter.name
        self._served: Served | None = None

    def serve(self, num_threads: int, context_tokens: int) -> Served:
        """Build the engine with room for so many threads of such length."""
        pool_mib = self.size_pool(num_threads, context_tokens)
        return self.serve_budget(pool_mib, max_sequences=num_threads)

    def serve_budget(self, pool_mib: int, *, max_sequences: int) -> Served:
        """Build the engine with a pool of this size."""
        config = self._setting.build_config(
            memory=self._kind, kv_memory_mib=pool_mib, max_sequences=max_sequences
        )
        self._served = serve(self.adapter, config)
        return self._served

    def size_pool(
        self, num_threads: int, context_tokens: int, spare_tokens: int = MOST_PROMPT_TOKENS
    ) -> int:
        """Return MiB for the tokens that will live, and for `spare_tokens` that all live."""
        stored = self._setting.build_config().dtype
        dense = dense_kv_bytes(self.config, 1, stored)
        num_live, num_partial = float(context_tokens), 64.0
        if self._kind != "dense":
            share = fmean(fmean(heads) for heads in self.kept)
            window = self._setting.window
            num_live = min(context_tokens, window) + share * max(0, context_tokens - window)
        most = num_threads * (num_live + num_partial) + spare_tokens
        return int(most * dense * POOL_SLACK / 2**20) + 1

    def open(self, num_threads: int, context_tokens: int, num_steps: int) -> dict[str, Any]:
        """Fill the memory, and let the first step sample a token for each thread."""
        served = self.serve(num_threads, context_tokens + num_steps + 1)
        filler = Filler(served.engine.memory, self.kept)
        generator = torch.Generator().manual_seed(num_threads)
        sampling = SamplingConfig(max_new_tokens=num_steps + 2, **self.ignore_end())
        for _ in range(num_threads):
            ids = torch.randint(self.config.vocab_size, (context_tokens,), generator=generator)
            add_filled(served.engine, filler, ids.tolist(), sampling)
        return {"context": "filled"} | self.measure_memory()

    def step(self, count: int) -> list[float]:
        """Take steps of the engine, sampling included."""
        engine = self.running.engine
        seconds: list[float] = []
        for _ in range(count):
            start = time.perf_counter()
            events = engine.step()
            seconds.append(time.perf_counter() - start)
            num_tokens = sum(isinstance(event, Token) for event in events)
            assert num_tokens == len(self._sequences()), f"a step gave {num_tokens} tokens"
        return seconds

    def traffic(self) -> Traffic:
        """Weights in their format, and the tokens that are alive in each head."""
        stored = str(self.running.engine.memory.store.keys.dtype).removeprefix("torch.")
        kv_bytes = self.count_tokens()[1] * token_bytes(self.config, stored)
        return Traffic(weight_bytes=self.weight_bytes(), kv_bytes=kv_bytes)

    def measure_memory(self) -> dict[str, Any]:
        """Return how much is alive, as the memory counts it."""
        num_tokens, num_live = self.count_tokens()
        num_heads = self.config.num_layers * self.config.num_kv_heads
        return {
            "factor_measured": round(num_tokens * num_heads / num_live, 2),
            "live_tokens": round(num_live / num_heads / len(self._sequences()), 1),
            "memory_mb": round(self.running.engine.memory.num_bytes_in_use / 1e6, 1),
        }

    def settings(self) -> dict[str, Any]:
        """Return formats, limits and kernels, as every engine of this setting has them."""
        config = self._setting.build_config()
        names = ("dtype", "weights", "weights_group", "page_tokens", "max_batch_tokens")
        chosen = {name: str(getattr(config, name)) for name in names if hasattr(config, name)}
        return chosen | {"who": "snello", "backend": describe_backend()}

    def close(self) -> None:
        """Drop the engine with its pool."""
        self._served = None

    @property
    def running(self) -> Served:
        """The engine that is open."""
        assert self._served is not None, "open it first"
        return self._served

    @property
    def num_requests(self) -> int:
        """How many requests are unfinished, waiting ones included."""
        return len(self.running.engine._requests)

    def weight_bytes(self) -> float:
        """Return what a step must read of the weights."""
        group = getattr(self._setting.build_config(), "weights_group", None)
        return weight_bytes(self.config, self._setting.weights, group)

    def count_tokens(self) -> tuple[int, int]:
        """Return how many tokens all threads were given, and how many all their heads hold."""
        memory = self.running.engine.memory
        handles = self._sequences()
        num_live = sum(int(memory.num_live_tokens(handle).sum()) for handle in handles)
        return sum(memory.length(handle) for handle in handles), num_live

    def _sequences(self) -> list[int]:
        """The memory's handles of all threads."""
        requests = self.running.engine._requests.values()
        handles = [request.thread.memory_sequence for request in requests]
        return [handle for handle in handles if handle is not None]

    def ignore_end(self) -> dict[str, Any]:
        """Return the field of SamplingConfig that lets no reply end by chance, if there is one."""
        has_field = "ignore_eos" in SamplingConfig.__dataclass_fields__
        return {"ignore_eos": True} if has_field else {}


def gather(setting: Setting, factors: Sequence[int]) -> list[Ours]:
    """Return our engine once for each factor; 1 is dense memory, others need their adapter."""
    return [
        Ours(setting, setting.find_adapter(max(factor, 4)), "dense" if factor == 1 else "sparse")
        for factor in factors
    ]


def describe_backend() -> str:
    """Tell which kernels an engine on this machine is built with."""
    from snello.ops.native import choose_backend, load_library

    library = load_library()
    chosen = choose_backend(torch.device("cpu"))
    return chosen if library.is_loaded else f"{chosen} ({library.reason})"
