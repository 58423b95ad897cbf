"""On a GPU, is a step ever slower for forgetting? The engine's whole step on Qwen3-8B's shape.

Random weights, marks by chance at factor 8, every batch and context; `dense_over_sparse` must never
be below 1.

    python -m benchmarks.gpu_decode
    TRITON_INTERPRET=1 python -m benchmarks.gpu_decode   # without a device: a toy
"""

from statistics import median

import torch
import tyro

from benchmarks.gpu_setting import (
    PAGE_TOKENS,
    Scale,
    Table,
    build_decoder,
    choose_scale,
    open_engine,
)
from benchmarks.record import Place
from benchmarks.timing import time_once
from snello.config.engine import SamplingConfig
from snello.models.decoder import Decoder


def measure_step(
    scale: Scale, decoder: Decoder, kind: str, batch: int, context: int
) -> tuple[list[float], dict[str, float]]:
    """Time whole engine steps, sampling included, once all prompts are read and steps recorded."""
    num_steps = max(3, scale.repeats)
    num_heads = sum(shape.num_heads for shape in decoder.cache_shapes)
    per_head = -(-(context + num_steps + scale.window_tokens) // PAGE_TOKENS) + 4
    num_pages = batch * num_heads * (per_head if kind == "dense" else per_head // 4 + 70)
    engine = open_engine(scale, decoder, kind, num_pages=num_pages, max_sequences=batch)
    sampling = SamplingConfig(max_new_tokens=num_steps + 8)
    prompt = torch.randint(decoder.config.vocab_size, (context,)).tolist()
    for _ in range(batch):
        engine.add(prompt, sampling)
    while len(engine.step()) < batch:
        pass  # prompts are read in chunks; from here on every step gives one token each
    engine.step()
    # a step ends with tokens on the host, so the host's clock will do
    seconds = [time_once(engine.step) for _ in range(num_steps)]
    figures = {
        "tokens_per_s": batch / median(seconds),
        "peak_mib": engine.memory.peak_bytes / 2**20,
    }
    return seconds, figures


def main(options: Place) -> None:
    """Measure every case, dense first."""
    scale = choose_scale()
    decoder, table = build_decoder(scale), Table(options, scale, "gpu_decode", "ms")
    for batch in scale.batches:
        for context in scale.contexts:
            medians: list[float] = []
            for kind in ("dense", "sparse"):
                seconds, figures = measure_step(scale, decoder, kind, batch, context)
                medians.append(median(seconds))
                if kind == "sparse":
                    figures["dense_over_sparse"] = medians[0] / medians[1]
                case = {"batch": batch, "context": context, "kind": kind}
                table.add(case, [1e3 * each for each in seconds], figures)


if __name__ == "__main__":
    main(tyro.cli(Place, description=__doc__))
