"""A `transformers` model on a slim cache: `generate()` and pipelines work, and memory is freed.

Knows nothing of engines: `transformers` drives, one memory sequence stands for each row of its
batch. Import this file only where `transformers` is wanted.
"""

from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from snello.cache.memory import Step
from snello.cache.open import MemoryPlan, choose_memory, open_memory, size_pool
from snello.cache.paged import PagedMemory
from snello.cache.pages import OutOfPages
from snello.config.engine import MemoryKind
from snello.models.adapter import load_model
from snello.models.decoder import Decoder

FIRST_TOKENS = 64
"""A cache starts with room for so many tokens of each row, and doubles as it fills."""

# Pipelines check a model's class name against this table; nothing else reads our entry.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault("snello", "SlimForCausalLM")


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    memory: MemoryKind | None = None,
    window_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> "SlimForCausalLM":
    """Load a base folder, an adapter folder, a full folder or `bundled` for `transformers`.

    Args:
        path: What to load; its window and decisions come with it.
        base: The base model's folder, if the adapter's own note of it no longer holds.
        memory: As in `EngineConfig.memory`.
        window_tokens: As in `EngineConfig.window_tokens`.
        dtype: Of weights and of the cache.
        device: Where both live.

    Raises:
        ValueError: the folder cannot be read as a model, or sparse memory is asked of a model
            that has not learned to forget.
    """
    loaded = load_model(path, base, dtype=dtype, device=device)
    plan = choose_memory(loaded.decision, memory, window_tokens)
    config = AutoConfig.from_pretrained(str(loaded.folder))
    model = SlimForCausalLM(config, loaded.decoder, plan)
    if (loaded.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(loaded.folder))
    model.train(False)
    return model


class SlimCache(Cache):
    """What `transformers` carries from step to step: one memory sequence for each row.

    Invariant: all sequences belong to `memory`, which is this cache's own, and `num_columns`
    columns of input (padding included) have been given to each row.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, memory: PagedMemory) -> None:
        super().__init__(layers=[])
        self.memory = memory
        self.sequences: list[int] = []
        self.num_columns = 0

    def begin(self, real: Bool[Tensor, "B T"]) -> Step:
        """Prepare to append each row's real tokens.

        Raises:
            ValueError: another batch than before, or padding elsewhere than on the left.
        """
        if not self.sequences:
            self.sequences = [self.memory.add() for _ in range(len(real))]
        if len(real) != len(self.sequences):
            raise ValueError(
                f"the cache holds {len(self.sequences)} rows and the batch has {len(real)}; "
                "go on with the same batch, or start with a new cache."
            )
        has_begun = torch.tensor([self.memory.length(s) > 0 for s in self.sequences])
        padded_inside = bool((real[:, 1:] < real[:, :-1]).any())
        if padded_inside or bool((has_begun & ~real[:, 0].cpu()).any()):
            raise ValueError(
                "attention_mask has padding right of a token; pad on the left "
                "(tokenizer.padding_side = 'left')."
            )
        counts = real.sum(dim=1).tolist()
        rows = [(s, count) for s, count in zip(self.sequences, counts, strict=True) if count]
        step = self._begin([s for s, _ in rows], [count for _, count in rows])
        self.num_columns += real.shape[1]
        return step

    def _begin(self, sequences: list[int], counts: list[int]) -> Step:
        """Begin a step, in a pool that doubles until it is large enough."""
        while True:
            try:
                return self.memory.begin(sequences, counts)
            except OutOfPages:
                self.memory.extend(self.memory.store.pool.num_pages)

    def reset(self) -> None:
        """Give all pages back; the next batch may be another."""
        for sequence in self.sequences:
            self.memory.release(sequence)
        self.sequences = []
        self.num_columns = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return how many columns each row has been given, forgotten ones included."""
        return self.num_columns

    def get_max_length(self, layer_idx: int | None = None) -> int:  # noqa: ARG002
        """Return -1: the cache grows as it is used."""
        return -1

    @property
    def is_linear(self) -> list[bool]:
        """Return that it holds tokens, so that a prompt is cut where the cache ends."""
        return [False]

    @property
    def batch_size(self) -> int:
        """Rows held, or -1 before the first step."""
        return len(self.sequences) or -1

    def update(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: keys and values go through the decoder's own memory."""
        _refuse("a slim cache in another model")

    def reorder_cache(self, *_: Any) -> NoReturn:
        """Refuse: a sequence is not copied."""
        _refuse("beam search")

    def crop(self, *_: Any) -> NoReturn:
        """Refuse: what was forgotten cannot come back."""
        _refuse("going back in the text (assisted decoding)")

    def batch_repeat_interleave(self, *_: Any) -> NoReturn:
        """Refuse: a sequence is not copied."""
        _refuse("repeating the rows of a cache")

    def batch_select_indices(self, *_: Any) -> NoReturn:
        """Refuse: a sequence is not copied."""
        _refuse("choosing rows of a cache")


class SlimForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A decoder as `transformers` expects a causal language model; for inference only."""

    config_class = PreTrainedConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _is_stateful = True
    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig, decoder: Decoder, plan: MemoryPlan) -> None:
        super().__init__(config)
        self.decoder = decoder.requires_grad_(False)
        self._plan = plan

    def open_cache(self, num_rows: int = 1) -> SlimCache:
        """Return an empty cache; it may be handed to `generate` as `cache`."""
        shapes = self.decoder.cache_shapes
        room_bytes = size_pool(
            shapes,
            self._plan,
            num_sequences=num_rows,
            sequence_tokens=FIRST_TOKENS,
            dtype=self.dtype,
        )
        memory = open_memory(
            shapes,
            self._plan,
            budget_bytes=room_bytes,
            max_sequences=num_rows,
            dtype=self.dtype,
            device=self.device,
        )
        return SlimCache(memory)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B past_and_T"] | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = True,
        logits_to_keep: int = 0,
        return_dict: bool = True,  # noqa: ARG002  (a dict is all there is)
    ) -> CausalLMOutputWithPast:
        """Return logits for the last `logits_to_keep` columns (0: for all).

        Logits at padding are zero. Without `cache` the text starts here.

        Raises:
            ValueError: padding elsewhere than on the left, or a cache of another kind.
        """
        B, T = input_ids.shape
        cache = self.open_cache(B) if cache is None else cache
        if not isinstance(cache, SlimCache):
            _refuse(f"a cache of the type {type(cache).__name__}")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -T:]
        real = mask.bool()
        step = cache.begin(real)
        hidden = self.decoder(input_ids[real], step)
        cache.memory.commit(step)
        padded = hidden.new_zeros(B, T, hidden.shape[-1])
        padded[real] = hidden
        kept = padded[:, -logits_to_keep:]
        logits = self.decoder.project(kept.flatten(0, 1))
        return CausalLMOutputWithPast(
            logits=logits.view(*kept.shape[:2], -1),
            cache=cache if use_cache else None,
        )

    def generate_batch(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: batches of many requests are the engine's."""
        _refuse("generate_batch (see snello.engine.engine.Engine)")

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the folder that was loaded is the checkpoint."""
        raise ValueError(
            "a slim model is not saved from transformers; copy the folder it was loaded from, or "
            "write one with snello retrofit."
        )

    def _validate_generation_mode(self, generation_mode: GenerationMode, *_: Any) -> None:
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            _refuse(generation_mode.value.replace("_", " "))

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,  # noqa: ARG002
        batch_size: int,
        max_cache_length: int,  # noqa: ARG002  (the cache grows)
    ) -> bool:
        """Hand `generate` a slim cache, where it would make one of its own."""
        if generation_config.cache_implementation is not None:
            _refuse(f"cache_implementation={generation_config.cache_implementation!r}")
        given = model_kwargs.get("cache")
        if given is not None:
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            num_rows = batch_size * generation_config.num_return_sequences
            model_kwargs["cache"] = self.open_cache(num_rows)
        return True


def _refuse(feature: str) -> NoReturn:
    raise ValueError(
        f"snello does not support {feature} on its slim cache; generate greedily or by sampling "
        "(num_beams=1), with the cache it makes itself."
    )
