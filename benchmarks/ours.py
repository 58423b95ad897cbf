"""Our engine as a contestant: threads of thought whose contexts were filled, not computed.

Knows nothing of peers, and takes steps only as a server would: `Engine.step`.
"""

import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.filling import CHUNK_TOKENS, Filler, add_filled
from benchmarks.setting import Setting
from benchmarks.traffic import Traffic, dense_kv_bytes, token_bytes, weight_bytes
from snello.config.engine import MemoryKind, SamplingConfig
from snello.engine.build import Served, serve
from snello.engine.request import Token
from snello.models.adapter import read_card
from snello.models.families import read_model_config

POOL_SLACK = 1.1


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
        self._setting, self._adapter, self._kind = setting, adapter, kind
        self._kept = read_kept(adapter)
        self.config = read_model_config(adapter.parent / "base")
        self.name = "dense" if kind == "dense" else adapter.name
        self.served: Served | None = None

    def serve(self, num_threads: int, context_tokens: int) -> Served:
        """Build the engine with room for so many threads of such length."""
        pool_mib = self._size_pool(num_threads, context_tokens)
        config = self._setting.build_config(
            memory=self._kind,
            kv_memory_mib=pool_mib,
            max_sequences=num_threads,
            max_batch_tokens=max(2048, num_threads),
        )
        self.served = serve(self._adapter, config)
        return self.served

    def open(self, num_threads: int, context_tokens: int, num_steps: int) -> dict[str, Any]:
        """Fill the memory, and let the first step sample a token for each thread."""
        served = self.serve(num_threads, context_tokens + num_steps + 1)
        filler = Filler(served.engine.memory, self._kept)
        generator = torch.Generator().manual_seed(num_threads)
        sampling = SamplingConfig(
            temperature=1.0, seed=0, max_new_tokens=num_steps + 2, **self._ignore_end()
        )
        for _ in range(num_threads):
            ids = torch.randint(self.config.vocab_size, (context_tokens,), generator=generator)
            add_filled(served.engine, filler, ids.tolist(), sampling)
        return {"context": "filled"} | self.measure_memory()

    def step(self, count: int) -> list[float]:
        """Take steps of the engine, sampling included."""
        engine = self._running().engine
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
        memory = self._running().engine.memory
        num_live = sum(int(memory.num_live_tokens(number).sum()) for number in self._sequences())
        stored = str(memory.store.keys.dtype).removeprefix("torch.")
        group = getattr(self._setting.build_config(), "weights_group", None)
        return Traffic(
            weight_bytes=weight_bytes(self.config, self._setting.weights, group),
            kv_bytes=num_live * token_bytes(self.config, stored),
        )

    def measure_memory(self) -> dict[str, Any]:
        """Return how much is alive, as the memory counts it."""
        memory = self._running().engine.memory
        lengths = [memory.length(number) for number in self._sequences()]
        live = [
            float(memory.num_live_tokens(number).sum()) / self._num_heads()
            for number in self._sequences()
        ]
        return {
            "factor_measured": round(sum(lengths) / sum(live), 2),
            "live_tokens": round(fmean(live), 1),
            "memory_mb": round(memory.num_bytes_in_use / 1e6, 1),
        }

    def settings(self) -> dict[str, Any]:
        """What the engine was built with."""
        config = self._setting.build_config()
        chosen = {
            name: str(getattr(config, name))
            for name in ("dtype", "weights", "weights_group", "kv_dtype", "page_tokens")
            if hasattr(config, name)
        }
        return chosen | {"who": "snello", "backend": describe_backend()}

    def close(self) -> None:
        """Drop the engine with its pool."""
        self.served = None

    def _running(self) -> Served:
        assert self.served is not None, "open it first"
        return self.served

    def _sequences(self) -> list[int]:
        """The memory's handles of all threads."""
        requests = self._running().engine._requests.values()
        handles = [request.thread.memory_sequence for request in requests]
        return [handle for handle in handles if handle is not None]

    def _num_heads(self) -> int:
        return self.config.num_layers * self.config.num_kv_heads

    def _ignore_end(self) -> dict[str, Any]:
        has_field = "ignore_eos" in SamplingConfig.__dataclass_fields__
        return {"ignore_eos": True} if has_field else {}

    def _size_pool(self, num_threads: int, context_tokens: int) -> int:
        """Return MiB for the tokens that will live, and for the worst case of one chunk."""
        stored = self._setting.build_config().dtype
        dense = dense_kv_bytes(self.config, 1, stored)
        num_live, num_spare = float(context_tokens), 64.0
        if self._kind != "dense":
            share = fmean(fmean(heads) for heads in self._kept)
            window = self._setting.window
            num_live = min(context_tokens, window) + share * max(0, context_tokens - window)
        most = num_threads * (num_live + num_spare) + CHUNK_TOKENS
        return int(most * dense * POOL_SLACK / 2**20) + 1


def describe_backend() -> str:
    """Tell which kernels an engine on this machine is built with."""
    from snello.ops.native import choose_backend, load_library

    library = load_library()
    chosen = choose_backend(torch.device("cpu"))
    return chosen if library.is_loaded else f"{chosen} ({library.reason})"
