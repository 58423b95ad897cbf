"""llama.cpp as a peer, by the C interface that llama-cpp-python shows.

Best setting on a CPU: flash attention off, keys and values in f16, one stream of cache for each
sequence, prompts in batches of 512.
"""

import ctypes
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy
from serving import parse_flags, serve

PROMPT_BATCH = 512
FLASH_ATTENTION_OFF = 0


class Llama:
    """One model; a context for each opening, a sequence for each thread."""

    def __init__(self, model: str, cores: int) -> None:
        self._path, self._cores = model, cores
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(model.encode(), params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {model}.")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._context: Any = None
        self._batch: Any = None
        self._next: list[int] = []
        self._length = 0

    def describe(self) -> dict[str, Any]:
        return {
            "who": "llama.cpp", "version": importlib.metadata.version("llama-cpp-python"),
            "model": Path(self._path).name, "kv": "f16", "flash_attention": False,
            "system": llama_cpp.llama_print_system_info().decode(),
            "shape": {
                "layers": llama_cpp.llama_model_n_layer(self._model),
                "hidden": llama_cpp.llama_model_n_embd(self._model),
                "vocabulary": self._vocab_size,
            },
        }  # fmt: skip

    def prepare(self, num_threads: int, context_tokens: int, num_steps: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_threads * (-(-(context_tokens + num_steps + 8) // 256) * 256)
        params.n_seq_max = num_threads
        params.n_batch = params.n_ubatch = PROMPT_BATCH
        params.n_threads = params.n_threads_batch = self._cores
        params.flash_attn_type = FLASH_ATTENTION_OFF
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit("llama.cpp cannot make the context; is there enough memory?")
        self._batch = llama_cpp.llama_batch_init(max(PROMPT_BATCH, num_threads), 0, 1)

    def open(self, prompts: Sequence[Sequence[int]], num_steps: int) -> None:  # noqa: ARG002
        self._next, self._length = [], len(prompts[0])
        for number, prompt in enumerate(prompts):
            for first in range(0, len(prompt), PROMPT_BATCH):
                part = prompt[first : first + PROMPT_BATCH]
                is_end = first + len(part) == len(prompt)
                self._decode(part, range(first, first + len(part)), [number] * len(part), is_end)
            self._next.append(self._choose(-1))

    def step(self) -> int:
        count = len(self._next)
        self._decode(self._next, [self._length] * count, range(count), None)
        self._next = [self._choose(row) for row in range(count)]
        self._length += 1
        return count

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
        self._context = None

    def _decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        is_end: bool | None,
    ) -> None:
        """Run a batch; logits for every row if `is_end` is None, else for the last of an end."""
        batch, last = self._batch, len(tokens) - 1
        batch.n_tokens = len(tokens)
        rows = zip(tokens, positions, sequences, strict=True)
        for row, (token, position, sequence) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = is_end is None or (is_end and row == last)
        code = llama_cpp.llama_decode(self._context, batch)
        if code != 0:
            raise SystemExit(f"llama_decode returned {code}.")

    def _choose(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(numpy.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


if __name__ == "__main__":
    flags = parse_flags()
    serve(Llama(flags.model, flags.cores))
