"""openvino-genai as a peer: its continuous batching pipeline, stepped by hand.

Best setting: LATENCY hint, keys and values in f16, prefix caching off, a cache of the size needed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import openvino
import openvino_genai
from serving import parse_flags, serve

BLOCK_TOKENS = 32


class OpenVino:
    """One pipeline at a time; its requests are its threads."""

    def __init__(self, model: str, cores: int, kv: str, batch: int) -> None:
        self._model, self._batch = Path(model), batch
        self._properties = {
            "INFERENCE_NUM_THREADS": cores,
            "KV_CACHE_PRECISION": kv,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._handles: list[Any] = []
        self._num_ahead = 0
        self._pipe: Any = None

    def describe(self) -> dict[str, Any]:
        config = json.loads((self._model / "config.json").read_text(encoding="utf-8"))
        return {
            "who": "openvino-genai", "version": openvino_genai.__version__,
            "model": self._model.name, "prefix_caching": False, "batch_tokens": self._batch,
            **self._properties,
            "shape": {
                "layers": config["num_hidden_layers"], "hidden": config["hidden_size"],
                "vocabulary": config["vocab_size"],
            },
        }  # fmt: skip

    def prepare(self, num_threads: int, context_tokens: int, num_steps: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        # Threads whose prompts are read first get tokens while the others' are read.
        self._num_ahead = num_threads * (-(-context_tokens // self._batch) + 1) + 8
        room = context_tokens + num_steps + self._num_ahead
        blocks = -(-room // BLOCK_TOKENS) + 1
        scheduler.num_kv_blocks = num_threads * blocks
        scheduler.max_num_seqs = num_threads
        scheduler.max_num_batched_tokens = max(self._batch, num_threads)
        self._pipe = openvino_genai.ContinuousBatchingPipeline(
            self._model, scheduler, "CPU", self._properties
        )

    def open(self, prompts: Sequence[Sequence[int]], num_steps: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = num_steps + self._num_ahead
        config.ignore_eos = True
        config.do_sample = False
        for number, prompt in enumerate(prompts):
            ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
            self._handles.append(self._pipe.add_request(number, ids, config))
        has_begun = [False] * len(prompts)
        while not all(has_begun):
            self._pipe.step()
            new = self._count_new()
            has_begun = [begun or count > 0 for begun, count in zip(has_begun, new, strict=True)]

    def step(self) -> int:
        self._pipe.step()
        return sum(self._count_new())

    def close(self) -> None:
        for handle in self._handles:
            handle.cancel()
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
        self._handles.clear()
        self._pipe = None

    def _count_new(self) -> list[int]:
        """Take what each request was given since the last call."""
        return [
            sum(len(output.generated_ids) for output in handle.read().values())
            if handle.can_read()
            else 0
            for handle in self._handles
        ]


if __name__ == "__main__":
    flags = parse_flags("kv", "batch")
    serve(OpenVino(flags.model, flags.cores, flags.kv or "f16", int(flags.batch or 512)))
