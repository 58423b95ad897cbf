"""From a model's name and a config to an engine that runs: every choice is made here, once.

Knows nothing of requests.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from snello.cache.open import MemoryPlan, choose_memory, open_memory, size_pool
from snello.config.engine import EngineConfig, Group, WeightFormat
from snello.config.policy import parse_policy
from snello.engine.engine import Engine
from snello.engine.text import TextCodec
from snello.models.adapter import LoadedModel, load_model
from snello.models.checkpoint import EMBEDDING
from snello.models.decoder import Decoder
from snello.models.packing import pack_decoder
from snello.quant.rounding import BITS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_POOL_BYTES = 2**30
STATES_OF_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that is ready to answer: its engine, its text, and which memory it got."""

    engine: Engine
    codec: TextCodec
    plan: MemoryPlan


def serve(path: str | Path, config: EngineConfig, *, base: str | Path | None = None) -> Served:
    """Load a base folder, an adapter folder, a full folder or `bundled`, and build its engine.

    Raises:
        ValueError: no such model, no such device, or a memory that does not suit the model.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds none; leave it at 'cpu'.")
    loaded = load_model(path, base, dtype=DTYPES[config.dtype], device=config.device)
    pack_weights(loaded.decoder, config.weights, config.weights_group)
    codec = TextCodec(loaded.folder)
    wish = config.memory, config.window_tokens, config.survivors
    rule = None if config.policy is None else parse_policy(config.policy, "--policy")
    plan = choose_memory(loaded.decision, *wish, rule)
    return Served(
        engine=build_engine(loaded, plan, config, eos_ids=codec.eos_ids), codec=codec, plan=plan
    )


def pack_weights(decoder: Decoder, weights: WeightFormat | None, group: Group) -> None:
    """Round and pack a decoder's weights, in place, where that was asked for or the folder has it.

    Without `weights`, a decoder that came quantized is packed as it came if it is on the CPU;
    elsewhere it runs on the floats that its codes stand for.

    Raises:
        ValueError: the folder has another format, or the decoder cannot be packed.
    """
    stored = decoder.stored
    if weights is None:
        if stored is not None and decoder.get_parameter(EMBEDDING).device.type == "cpu":
            pack_decoder(decoder, stored.bits, stored.group)
        return
    if stored is not None and stored.bits != BITS[weights]:
        raise ValueError(
            f"weights is {weights!r}, and the folder's are int{stored.bits} already; leave "
            "--weights out, or give the folder of the original model."
        )
    pack_decoder(decoder, BITS[weights], group if stored is None else stored.group)


def build_engine(
    loaded: LoadedModel, plan: MemoryPlan, config: EngineConfig, *, eos_ids: tuple[int, ...] = ()
) -> Engine:
    """Open the planned memory for a loaded model, and put an engine on both."""
    decoder = loaded.decoder.requires_grad_(False).eval()
    dtype = DTYPES[config.dtype if config.kv_dtype == "auto" else config.kv_dtype]
    budget_bytes = None if config.kv_memory_mib is None else config.kv_memory_mib * 2**20
    if budget_bytes is None:
        worst_bytes = size_pool(
            decoder.cache_shapes,
            plan,
            num_sequences=config.max_sequences,
            sequence_tokens=decoder.config.max_positions,
            page_tokens=config.page_tokens,
            dtype=dtype,
        )
        budget_bytes = min(worst_bytes, DEFAULT_POOL_BYTES)
    memory = open_memory(
        decoder.cache_shapes,
        plan,
        budget_bytes=budget_bytes,
        page_tokens=config.page_tokens,
        max_sequences=config.max_sequences + _count_states(config),
        dtype=dtype,
        device=config.device,
    )
    return Engine(
        decoder,
        memory,
        eos_ids=eos_ids,
        max_batch_tokens=config.max_batch_tokens,
        max_sequences=config.max_sequences,
        prefix_cache=config.prefix_cache,
        swap_bytes=config.swap_mib * 2**20,
        reserve_fraction=config.reserve_fraction,
    )


def _count_states(config: EngineConfig) -> int:
    """How many sequences nobody appends to: states of texts, or of what samples start from."""
    return STATES_OF_SAMPLES if config.prefix_cache is None else config.prefix_cache.max_checkpoints
