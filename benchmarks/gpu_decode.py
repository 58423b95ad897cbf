"""On a GPU, what does forgetting gain on Qwen3-8B's shape: speed of a step, and of a full memory?

Random weights, marks by chance at factor 8. `step`: the engine's whole decode step at every batch
and context; factor 8 must never be slower. `budget`: the same bytes of KV memory, short prompts,
replies of long-tailed lengths; tokens a second in all must be at least 5 times dense.

    python -m benchmarks.gpu_decode [step] [budget]
    TRITON_INTERPRET=1 python -m benchmarks.gpu_decode   # without a device: a toy
"""

import argparse
import time
from statistics import median

import torch

from benchmarks.gpu_setting import FACTOR, PAGE_TOKENS, Scale, Table, choose_scale
from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.engine import SamplingConfig
from snello.engine.engine import Engine
from snello.models.decoder import Decoder
from snello.policies import Random


def open_engine(scale: Scale, decoder: Decoder, kind: str, **pool: int) -> Engine:
    """An engine on dense memory, or on sparse memory that keeps one token in eight."""
    common = {"page_tokens": PAGE_TOKENS, "dtype": scale.dtype, "device": scale.device, **pool}
    common["backend"] = "triton"
    shapes = decoder.cache_shapes
    if kind == "dense":
        memory = DenseMemory(shapes, **common)
    else:
        policy = Random(rate=1 - 1 / FACTOR)
        window = {"window_tokens": scale.window_tokens, "shift": 1, "policy": policy}
        memory = SparseMemory(shapes, **window, **common)
    return Engine(decoder, memory, max_sequences=pool["max_sequences"], seed=0)


def measure_step(scale: Scale, decoder: Decoder, kind: str, batch: int, context: int) -> dict:
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
    seconds = []
    for _ in range(num_steps):  # a step ends with tokens on the host, so the host's clock will do
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    return {"p50_s": median(seconds), "memory_bytes": engine.memory.peak_bytes}


def measure_budget(scale: Scale, decoder: Decoder, kind: str) -> dict:
    """Tokens a second of all requests together on the same bytes of KV memory."""
    engine = open_engine(
        scale, decoder, kind, budget_bytes=scale.budget_bytes, max_sequences=scale.num_requests
    )
    dice = torch.Generator().manual_seed(0)
    numbers = range(scale.num_requests)
    lengths = [scale.reply_tokens * (4 if i % 10 == 9 else 1) for i in numbers]
    prompts = torch.randint(97, (scale.num_requests, 16), generator=dice).tolist()
    wishes = [SamplingConfig(max_new_tokens=length) for length in lengths]
    started = time.perf_counter()
    done = engine.generate(prompts, wishes)
    seconds = time.perf_counter() - started
    assert engine.memory.peak_bytes <= scale.budget_bytes
    return {"tokens_per_s": sum(len(c.token_ids) for c in done) / seconds, "seconds": seconds}


def build_decoder(scale: Scale) -> Decoder:
    """Random weights, made where they are used."""
    torch.manual_seed(0)
    torch.set_default_dtype(scale.dtype)
    with torch.device(scale.device):
        decoder = Decoder(scale.model)
    torch.set_default_dtype(torch.float32)
    decoder.cast(scale.dtype)
    decoder.reset_derived()
    return decoder.eval().requires_grad_(False)


def ask_step(scale: Scale, table: Table, decoder: Decoder) -> None:
    """Dense over factor 8, which must never be below 1."""
    for batch in scale.batches:
        for context in scale.contexts:
            case = {"batch": batch, "context": context}
            found = {}
            for kind in ("dense", "sparse"):
                found[kind] = measure_step(scale, decoder, kind, batch, context)
                table.add({**case, "kind": kind}, found[kind])
            ratio = found["dense"]["p50_s"] / found["sparse"]["p50_s"]
            table.add({**case, "kind": "ratio"}, {"dense_over_sparse": ratio})


def ask_budget(scale: Scale, table: Table, decoder: Decoder) -> None:
    """Factor 8 over dense, asked to be at least 5."""
    found = {kind: measure_budget(scale, decoder, kind) for kind in ("dense", "sparse")}
    for kind, figures in found.items():
        table.add({"kind": kind}, figures)
    ratio = found["sparse"]["tokens_per_s"] / found["dense"]["tokens_per_s"]
    table.add({"kind": "ratio"}, {"sparse_over_dense": ratio})


def main() -> None:
    """Ask what is wanted, on the device there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", default=["step", "budget"])
    wanted = parser.parse_args().questions
    scale = choose_scale()
    decoder = build_decoder(scale)
    if "step" in wanted:
        ask_step(scale, Table(scale, "gpu_step"), decoder)
    if "budget" in wanted:
        ask_budget(scale, Table(scale, "gpu_budget"), decoder)


if __name__ == "__main__":
    main()
