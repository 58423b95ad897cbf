"""Is what is about to be timed right? Our engine's logits against the float oracle.

Knows nothing of time. The oracle keeps all tokens in float32, hides what was evicted by the one
rule, and uses no kernel of ours but those of `transformers`-tested plain torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.ours import Ours
from benchmarks.setting import Setting
from snello.cache.dense import DenseMemory
from snello.cache.masked import MaskedMemory
from snello.cache.sparse import SparseMemory
from snello.models.adapter import load_model
from snello.models.decoder import Decoder
from snello.policies import Never

TOLERANCES = {"float32": 0.01, "int8": 0.15, "int4": 0.9}
"""Largest accepted root mean square of the difference, over that of the logits: rounding the
weights of a random model is far from harmless, and this is a test for mistakes, not of quality."""

NUM_DECODED = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far logits are from the oracle's."""

    error: float
    """Root mean square of the difference over that of the oracle's logits."""

    same_first: float
    """Share of positions with the same likeliest token."""

    def as_figures(self) -> dict[str, Any]:
        """The same for a line of evidence."""
        return {"logit_error": round(self.error, 5), "same_first": round(self.same_first, 3)}


class WrongLogits(Exception):  # noqa: N818  (an event: nothing may be timed)
    """The engine does not compute what the oracle computes."""


class Oracle:
    """The float model, and one text of random tokens that is longer than the window."""

    def __init__(self, adapter: Path, num_tokens: int) -> None:
        self._loaded = load_model(adapter)
        generator = torch.Generator().manual_seed(7)
        vocab_size = self._loaded.decoder.config.vocab_size
        self.tokens = torch.randint(vocab_size, (num_tokens,), generator=generator)
        self._logits: dict[bool, Tensor] = {}

    def judge(self, ours: Ours, weights: str) -> Verdict:
        """Compare an engine that holds no thread yet.

        Raises:
            WrongLogits: it is farther off than `TOLERANCES` allow.
        """
        engine = ours.serve(1, len(self.tokens)).engine
        is_sparse = isinstance(engine.memory, SparseMemory)
        if is_sparse not in self._logits:
            self._logits[is_sparse] = self._compute(engine.memory)
        wanted = self._logits[is_sparse]
        found = run_text(engine.decoder, engine.memory, self.tokens)
        ours.close()
        error = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
        same = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
        if not error <= TOLERANCES[weights]:
            raise WrongLogits(
                f"{ours.name}, weights {weights}: logits are off by {error:.3f} of their size; "
                f"at most {TOLERANCES[weights]} is allowed, so nothing is timed."
            )
        return Verdict(error, same)

    def _compute(self, memory: DenseMemory | SparseMemory) -> Float[Tensor, "N V"]:
        """Return the logits of the float model under the same rule."""
        is_sparse = isinstance(memory, SparseMemory)
        masked = MaskedMemory(
            memory.shapes,
            window_tokens=memory.window_tokens if is_sparse else 1,
            shift=memory.shift if is_sparse else 1,
            policy=memory.policy if is_sparse else Never(),
            max_sequences=1,
        )
        return run_text(self._loaded.decoder, masked, self.tokens)


def judge_all(setting: Setting, contenders: Sequence[Ours]) -> dict[str, dict[str, Any]]:
    """Judge each one by its own adapter; return figures by name.

    Raises:
        WrongLogits: one of them is off.
    """
    return {
        who.name: Oracle(who.adapter, setting.window + 64).judge(who, setting.weights).as_figures()
        for who in contenders
    }


@torch.inference_mode()
def run_text(
    decoder: Decoder, memory: DenseMemory | SparseMemory | MaskedMemory, tokens: Int[Tensor, " T"]
) -> Float[Tensor, "N V"]:
    """Read a text in two chunks and then token by token; return the logits of the last tokens."""
    sequence, logits = memory.add(), []
    first = len(tokens) - NUM_DECODED
    for start, end in pairwise([0, first // 2, first, *range(first + 1, len(tokens) + 1)]):
        step = memory.begin([sequence], [end - start])
        hidden = decoder(tokens[start:end], step)
        memory.commit(step)
        logits.append(decoder.project(hidden[-1:]).float())
    memory.release(sequence)
    return torch.cat(logits)
