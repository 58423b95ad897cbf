"""What do survivors in int8 and fp8 cost the bundled model, and how many bytes do they save?

Nothing is forgotten, so that every token behind the window is read rounded: the largest loss there
can be. Logits are compared with those of exact survivors in float32.

    python -m benchmarks.survivors [--problems 20] [--window 16]
"""

import argparse

import torch
from torch.nn import functional

from snello import bundled
from snello.bundled.problems import pose
from snello.cache.open import MemoryPlan, open_memory
from snello.engine.text import TextCodec
from snello.models.adapter import load_model
from snello.models.decoder import Decoder
from snello.policies import Never

CHUNK_TOKENS, DECODED_TOKENS = 100, 60
CASES = [(dtype, form) for dtype in ("float32", "bfloat16") for form in ("same", "int8", "fp8")]


@torch.inference_mode()
def read(
    decoder: Decoder, text: torch.Tensor, case: tuple[str, str], window: int
) -> tuple[torch.Tensor, int]:
    """Log-probabilities after each token, and the most bytes that were in use."""
    dtype, form = case
    memory = open_memory(
        decoder.cache_shapes,
        MemoryPlan(kind="sparse", window_tokens=window, survivors=form),
        budget_bytes=2**26,
        max_sequences=1,
        dtype=getattr(torch, dtype),
    )
    memory.policy = Never()
    head, tail = text[:-DECODED_TOKENS], text[-DECODED_TOKENS:]
    handle, logits = memory.add(), []
    for tokens in (*head.split(CHUNK_TOKENS), *tail.split(1)):
        step = memory.begin([handle], [len(tokens)])
        logits.append(decoder.project(decoder(tokens, step)))
        memory.commit(step)
    return functional.log_softmax(torch.cat(logits), dim=-1), memory.peak_bytes


def main() -> None:
    """Read all problems in every case; print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--window", type=int, default=16)
    given = parser.parse_args()
    loaded = load_model(bundled.model_folder())
    decoder, codec = loaded.decoder.requires_grad_(False).eval(), TextCodec(loaded.folder)
    losses: dict[tuple[str, str], list[torch.Tensor]] = {case: [] for case in CASES}
    sizes = dict.fromkeys(CASES, 0)
    for seed in range(given.problems):
        problem = pose("ledger", level=1, seed=seed)
        text = torch.tensor(codec.encode_chat(problem.messages) + codec.encode(problem.reply))
        reference, _ = read(decoder, text, CASES[0], given.window)
        for case in CASES:
            found, num_bytes = read(decoder, text, case, given.window)
            losses[case].append((reference.exp() * (reference - found)).sum(-1))
            sizes[case] += num_bytes // given.problems
    print("| pages | survivors | KL, mean (nats) | KL, largest | bytes | against `same` |")
    print("|---|---|---|---|---|---|")
    for (dtype, form), size in sizes.items():
        kl = torch.cat(losses[dtype, form])
        factor = sizes[dtype, "same"] / size
        print(f"| {dtype} | {form} | {kl.mean():.1e} | {kl.max():.1e} | {size:,} | {factor:.2f} |")


if __name__ == "__main__":
    main()
