"""On a GPU, the same bytes of KV memory: how many tokens a second, dense and at factor 8?

Qwen3-8B's shape, random weights, marks by chance; short prompts, replies of long-tailed lengths.
`times_dense` is asked to be at least 5.

    python -m benchmarks.gpu_budget
    TRITON_INTERPRET=1 python -m benchmarks.gpu_budget   # without a device: a toy
"""

import time

import torch
import tyro

from benchmarks.gpu_setting import Scale, Table, build_decoder, choose_scale, open_engine
from benchmarks.record import Place
from snello.config.engine import SamplingConfig
from snello.models.decoder import Decoder


def measure_budget(scale: Scale, decoder: Decoder, kind: str) -> tuple[float, dict[str, float]]:
    """Return tokens a second of all requests together, and figures."""
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
    figures = {"seconds": seconds, "peak_mib": engine.memory.peak_bytes / 2**20}
    return sum(len(c.token_ids) for c in done) / seconds, figures


def main(options: Place) -> None:
    """Serve the same requests, dense first."""
    scale = choose_scale()
    decoder, table = build_decoder(scale), Table(options, scale, "gpu_budget", "tokens/s")
    rates: list[float] = []
    for kind in ("dense", "sparse"):
        rate, figures = measure_budget(scale, decoder, kind)
        rates.append(rate)
        case = {"kind": kind, "budget_mib": scale.budget_bytes / 2**20}
        table.add(case, [rate], figures | {"times_dense": rate / rates[0]})


if __name__ == "__main__":
    main(tyro.cli(Place, description=__doc__))
