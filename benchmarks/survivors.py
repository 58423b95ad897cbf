"""What do narrow survivors cost a model, and how many bytes do they save, alone and with DMS?

First the model: logits are compared with those of exact survivors in float32, bytes with those of
dense memory in 16 bits. The bundled model forgets nothing here, so that every token behind the
window is read rounded: the largest loss there can be; a retrofitted one forgets what it has learned
to. Then one head of 128, the usual size, with random numbers: all tokens kept, and one in eight.

    python -m benchmarks.survivors [--model FOLDER] [--problems 20] [--window 16] [--tokens 32768]
"""

import argparse
from collections.abc import Sequence

import torch
from torch.nn import functional

from snello import bundled
from snello.bundled.problems import pose
from snello.cache.dense import DenseMemory
from snello.cache.open import MemoryPlan, open_memory
from snello.cache.sparse import SparseMemory
from snello.config.engine import SurvivorFormat
from snello.config.model import CacheShape
from snello.engine.text import TextCodec
from snello.models.adapter import load_model
from snello.models.decoder import Decoder
from snello.policies import Learned, Never, Policy, Random

CHUNK_TOKENS, DECODED_TOKENS = 100, 60
FORMATS: tuple[SurvivorFormat, ...] = ("same", "int8", "fp8", "int4")
CASES = [(dtype, form) for dtype in ("float32", "bfloat16") for form in FORMATS]
HEAD = CacheShape(num_heads=1, key_size=128, value_size=128)
HEAD_WINDOW, FACTOR = 256, 8


@torch.inference_mode()
def read(
    decoder: Decoder, text: torch.Tensor, memory: DenseMemory | SparseMemory
) -> tuple[torch.Tensor, int]:
    """Log-probabilities after each token, and the most bytes that were in use."""
    head, tail = text[:-DECODED_TOKENS], text[-DECODED_TOKENS:]
    handle, logits = memory.add(), []
    for tokens in (*head.split(CHUNK_TOKENS), *tail.split(1)):
        step = memory.begin([handle], [len(tokens)])
        logits.append(decoder.project(decoder(tokens, step)))
        memory.commit(step)
    return functional.log_softmax(torch.cat(logits), dim=-1), memory.peak_bytes


def open_sparse(
    shapes: Sequence[CacheShape],
    case: tuple[str, SurvivorFormat],
    window: int,
    policy: Policy,
    budget_bytes: int = 2**26,
) -> SparseMemory:
    """A memory for one sequence."""
    dtype, form = case
    plan = MemoryPlan(kind="sparse", window_tokens=window, survivors=form)
    given = {"budget_bytes": budget_bytes, "max_sequences": 1}
    memory = open_memory(shapes, plan, **given, dtype=getattr(torch, dtype))
    assert isinstance(memory, SparseMemory)
    memory.policy = policy
    return memory


def open_dense(shapes: Sequence[CacheShape]) -> DenseMemory:
    """A memory of 16 bits that keeps everything."""
    return DenseMemory(shapes, budget_bytes=2**26, max_sequences=1, dtype=torch.bfloat16)


def compare_model(folder: str, num_problems: int, window: int | None) -> None:
    """Read all problems in every case; print a row for each."""
    loaded = load_model(folder)
    decoder, codec = loaded.decoder.requires_grad_(False).eval(), TextCodec(loaded.folder)
    policy: Policy = Never() if loaded.decision is None else Learned()
    width = window or (16 if loaded.decision is None else loaded.decision.window_tokens)
    losses: dict[tuple[str, SurvivorFormat], list[torch.Tensor]] = {case: [] for case in CASES}
    sizes, dense_size = dict.fromkeys(CASES, 0), 0
    shapes = decoder.cache_shapes
    for seed in range(num_problems):
        problem = pose("ledger", level=1, seed=seed)
        text = torch.tensor(codec.encode_chat(problem.messages) + codec.encode(problem.reply))
        reference, _ = read(decoder, text, open_sparse(shapes, CASES[0], width, policy))
        dense_size += read(decoder, text, open_dense(shapes))[1]
        for case in CASES:
            found, num_bytes = read(decoder, text, open_sparse(shapes, case, width, policy))
            losses[case].append((reference.exp() * (reference - found)).sum(-1))
            sizes[case] += num_bytes
    print("| pages | survivors | KL, mean (nats) | KL, largest | bytes | against dense, 16 bits |")
    print("|---|---|---|---|---|---|")
    for (dtype, form), size in sizes.items():
        kl = torch.cat(losses[dtype, form])
        figures = f"{kl.mean():.1e} | {kl.max():.1e} | {size // num_problems:,}"
        print(f"| {dtype} | {form} | {figures} | {dense_size / size:.2f} |")


@torch.inference_mode()
def fill_head(memory: SparseMemory, num_tokens: int) -> int:
    """Bytes in use after so many tokens of random numbers."""
    handle, generator = memory.add(), torch.Generator().manual_seed(0)
    for first in range(0, num_tokens, 1024):
        count = min(1024, num_tokens - first)
        step = memory.begin([handle], [count])
        q, k, v = torch.randn(3, count, 1, HEAD.key_size, generator=generator)
        step.attend(0, q, k, v, None, scale=HEAD.key_size**-0.5)
        memory.commit(step)
    return memory.num_bytes_in_use


def measure_head(num_tokens: int) -> None:
    """Print what one head takes, against 2 bytes for each of its numbers."""
    print(
        f"\n{num_tokens:,} tokens of a head of 128, window {HEAD_WINDOW}, against 16 bits, dense:\n"
    )
    print(
        f"| survivors | bytes of one | all kept | one in {FACTOR} kept | the same, of any length |"
    )
    print("|---|---|---|---|---|")
    dense_bytes = 2 * HEAD.numbers_per_slot
    for form in FORMATS:
        factors = []
        for policy in (Never(), Random(1 - 1 / FACTOR)):
            memory = open_sparse([HEAD], ("bfloat16", form), HEAD_WINDOW, policy, 2**28)
            factors.append(dense_bytes * num_tokens / fill_head(memory, num_tokens))
        slot_bytes = memory.store.bytes_per_page / memory.store.survivor_tokens
        shown = " | ".join(f"{factor:.2f}" for factor in factors)
        print(f"| {form} | {slot_bytes:.2f} | {shown} | {FACTOR * dense_bytes / slot_bytes:.2f} |")


def main(words: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(bundled.model_folder()))
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--window", type=int)
    parser.add_argument("--tokens", type=int, default=32768)
    given = parser.parse_args(words)
    compare_model(given.model, given.problems, given.window)
    measure_head(given.tokens)


if __name__ == "__main__":
    main()
