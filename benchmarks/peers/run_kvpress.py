"""KVPress's presses as peers: one prompt at a time in `transformers`, greedy, cut down as asked.

Knows nothing of problems or answers. A question is a prompt with a press and its settings:
    whole      the prompt is read at once, then cut down to `target` tokens
    stepwise   it is read token by token, and cut down to `target` after each, as replies are
With `decodes`, what is generated is cut down too, after every token; else all of it stays.

StreamingLLMPress scores slots by where they stand, and scores are equal but for those to drop.
`topk`, which picks the slots to keep, returns equal ones in no order: cut down a second time, the
slots to drop are no longer the oldest. `InOrder` sorts what was picked; `raw` leaves it as it is.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
import transformers
from kvpress import (
    DecodingPress,
    PrefillDecodingPress,
    ScorerPress,
    SnapKVPress,
    StreamingLLMPress,
    TOVAPress,
)
from kvpress.utils import compute_n_kept
from serving import parse_flags, say


class Presses:
    """One model, and any press on it."""

    def __init__(self, model: str, cores: int) -> None:
        torch.set_num_threads(cores)
        torch.set_grad_enabled(False)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def describe(self) -> dict[str, Any]:
        """Return versions and settings."""
        return {
            "who": "kvpress",
            "version": version("kvpress"),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "dtype": "float32",
        }

    def answer(
        self, prompt: Sequence[int], most: int, ends: Sequence[int], press: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Continue a prompt greedily; an end token is not part of what is returned."""
        cache, reply = transformers.DynamicCache(), list[int]()
        built = None if press is None else build_press(press, len(prompt))
        is_stepwise = press is not None and press["prompt"] == "stepwise"
        with nullcontext() if built is None else built(self._model):
            step = 1 if is_stepwise else len(prompt)
            for start in range(0, len(prompt), step):
                token = self._read(prompt[start : start + step], start, cache)
            while token not in ends and len(reply) < most:
                reply.append(token)
                token = self._read([token], len(prompt) + len(reply) - 1, cache)
        return {"reply": reply, "cached_tokens": cache.layers[0].keys.shape[2]}

    def _read(self, ids: Sequence[int], position: int, cache: Any) -> int:
        """Read tokens at their true positions, whatever the cache has lost; return what follows."""
        positions = torch.arange(position, position + len(ids))[None]
        out = self._model(
            torch.tensor([ids]), past_key_values=cache, position_ids=positions, logits_to_keep=1
        )
        return int(out.logits[0, -1].argmax())


class InOrder(StreamingLLMPress):
    """The press with its own scores; what it keeps stays in order."""

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        if self.compression_ratio == 0:
            return keys, values
        scores = self.score(module, hidden_states, keys, values, attentions, kwargs)
        num_kept = compute_n_kept(keys.shape[2], self.compression_ratio)
        kept = scores.topk(num_kept, dim=-1).indices.sort(dim=-1).values
        kept = kept[..., None].expand(-1, -1, -1, module.head_dim)
        return keys.gather(2, kept), values.gather(2, kept)


def build_press(asked: dict[str, Any], prompt_tokens: int) -> Any:
    """Return the press that does what was asked with a prompt of this length."""
    target = asked["target"]
    decoding = DecodingPress(
        base_press=_build_scorer(asked),
        compression_interval=1,
        target_size=target,
        hidden_states_buffer_size=0,
    )
    if asked["prompt"] == "stepwise":
        return decoding
    prefill = _build_scorer(asked)
    # Half a token more than the target: presses round down.
    prefill.compression_ratio = max(0.0, 1 - (target + 0.5) / prompt_tokens)
    return PrefillDecodingPress(prefill, decoding) if asked["decodes"] else prefill


def _build_scorer(asked: dict[str, Any]) -> ScorerPress:
    if asked["press"] == "streaming":
        return (StreamingLLMPress if asked["raw"] else InOrder)(n_sink=asked["sinks"])
    if asked["press"] == "snapkv":
        return SnapKVPress(window_size=asked["window"], kernel_size=asked["kernel"])
    return TOVAPress()


if __name__ == "__main__":
    flags = parse_flags()
    presses = Presses(flags.model, flags.cores)
    say(presses.describe())
    for line in sys.stdin:
        if not line.strip():
            break
        say(presses.answer(**json.loads(line)))
