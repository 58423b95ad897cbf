"""What rounding survivors costs the bundled model, and what it saves."""

import pytest
import torch
from torch.nn import functional

from snello import bundled
from snello.bundled.problems import pose
from snello.cache.open import MemoryPlan, choose_memory, open_memory
from snello.config.dms import DecisionConfig
from snello.config.engine import EngineConfig
from snello.engine.build import build_engine
from snello.engine.text import TextCodec
from snello.models.adapter import load_model
from snello.policies import Never
from tests.models.running import run_ragged

WINDOW = 16
MOST_KL = {"int8": 5e-6, "fp8": 5e-5, "int4": 2e-4}
"""Nats a token, a mean; see docs/log.md for what was measured."""


@pytest.fixture(scope="module")
def solved():
    """The bundled model, which forgets nothing here, and a problem with its reply as one text."""
    loaded = load_model(bundled.model_folder())
    problem, codec = pose("ledger", level=1, seed=3), TextCodec(loaded.folder)
    text = codec.encode_chat(problem.messages) + codec.encode(problem.reply)
    return loaded.decoder.requires_grad_(False).eval(), torch.tensor(text)


def read(solved, survivors, dtype=torch.float32):
    """Logits of every token, the prompt in chunks, and the most bytes that were in use."""
    decoder, text = solved
    plan = MemoryPlan(kind="sparse", window_tokens=WINDOW, survivors=survivors)
    given = {"budget_bytes": 2**24, "max_sequences": 1, "dtype": dtype}
    memory = open_memory(decoder.cache_shapes, plan, **given)
    memory.policy = Never()
    (logits,) = run_ragged(decoder, memory, [text], num_decoded=60, chunks=[100])
    return logits, memory.peak_bytes


@pytest.mark.parametrize(
    ("survivors", "dtype", "least_factor"),
    [
        ("int8", torch.float32, 2.6),
        ("fp8", torch.float32, 2.6),
        ("int8", torch.bfloat16, 1.5),
        ("int4", torch.float32, 4.0),
        ("int4", torch.bfloat16, 2.4),
    ],
)
def test_the_bundled_model_says_the_same_on_fewer_bytes(solved, survivors, dtype, least_factor):
    """Nothing is forgotten: every token but the last 17 is read rounded."""
    exact, exact_bytes = read(solved, "same", dtype)
    rounded, rounded_bytes = read(solved, survivors, dtype)
    wanted = functional.log_softmax(exact, -1)
    kl = functional.kl_div(
        functional.log_softmax(rounded, -1), wanted, log_target=True, reduction="none"
    ).sum(-1)
    assert kl.mean() < MOST_KL[survivors]
    assert exact_bytes / rounded_bytes > least_factor


def test_pages_may_be_narrower_than_what_is_computed_in(solved):
    """float32 on pages of bfloat16, and int8 behind the window, through the engine's own config."""
    loaded = load_model(bundled.model_folder())
    plan = choose_memory(DecisionConfig(window_tokens=WINDOW), "window", None, "int8")
    config = EngineConfig(kv_dtype="bfloat16", survivors="int8", max_sequences=2)
    memory = build_engine(loaded, plan, config).memory
    assert memory.store.dtype == torch.bfloat16
    assert memory.store.survivors == torch.int8
    assert memory.backend in ("cpu", "reference")
    exact, _ = read(solved, "same")
    rounded, _ = read(solved, "int8", torch.bfloat16)
    assert exact.dtype == rounded.dtype == torch.float32
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.97


def test_dense_memory_refuses_narrow_survivors():
    with pytest.raises(ValueError, match=r"survivors is 'int8', but dense memory has no window"):
        choose_memory(None, "dense", None, "int8")
