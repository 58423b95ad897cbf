"""transformers as a peer: sdpa, a static cache, float32, one batch for all threads.

`--compile` gives the decode step to torch.compile, which takes a minute for every new size.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from serving import parse_flags, serve


class Transformers:
    """One model; a static cache for each opening."""

    def __init__(self, model: str, cores: int, dtype: str, *, is_compiled: bool) -> None:
        torch.set_num_threads(cores)
        torch.set_grad_enabled(False)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self._dtype, self._is_compiled = dtype, is_compiled
        self._decode: Any = torch.compile(self._model) if is_compiled else self._model
        self._cache: Any = None
        self._next: Any = None

    def describe(self) -> dict[str, Any]:
        config = self._model.config
        return {
            "who": "transformers", "version": transformers.__version__, "dtype": self._dtype,
            "attention": "sdpa", "cache": "static", "compiled": self._is_compiled,
            "torch": torch.__version__,
            "shape": {
                "layers": config.num_hidden_layers, "hidden": config.hidden_size,
                "vocabulary": config.vocab_size,
            },
        }  # fmt: skip

    def prepare(self, num_threads: int, context_tokens: int, num_steps: int) -> None:  # noqa: ARG002
        self._cache = transformers.StaticCache(
            config=self._model.config, max_cache_len=context_tokens + num_steps + 8
        )

    def open(self, prompts: Sequence[Sequence[int]], num_steps: int) -> None:  # noqa: ARG002
        self._run(self._model, torch.tensor(prompts))

    def step(self) -> int:
        self._run(self._decode, self._next[:, None])
        return len(self._next)

    def close(self) -> None:
        self._cache = None

    def _run(self, model: Any, ids: torch.Tensor) -> None:
        out = model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._next = out.logits[:, -1].argmax(-1)


if __name__ == "__main__":
    flags = parse_flags("dtype", "!compile")
    serve(
        Transformers(flags.model, flags.cores, flags.dtype or "float32", is_compiled=flags.compile)
    )
