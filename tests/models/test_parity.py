"""For every family: the logits of transformers, in prefill, chunked prefill and decoding.

In a naive memory, in dense memory, and in sparse memory where nothing is evicted.
"""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.dms import DecisionConfig
from snello.models.checkpoint import load_decoder
from snello.policies.learned import Learned
from snello.policies.never import Never
from tests.models.naive_memory import NaiveMemory
from tests.models.running import run_ragged
from tests.models.tiny import CASES, build_tiny, ragged_prompts

NUM_DECODED = 32
PROMPT_LENGTHS = (37, 5, 64, 37, 5, 64)
CHUNKS = (64, 64, 64, 7, 7, 7)  # the first three texts are prefilled whole
TOLERANCE = 1e-4
ROOM = {"num_pages": 1200, "max_sequences": 6, "page_tokens": 8}


def sparse(shapes, window_tokens, policy=Never, backend=None):
    rule = {"window_tokens": window_tokens, "shift": 1, "policy": policy()}
    return SparseMemory(shapes, **rule, **ROOM, backend=backend)


MEMORIES = {
    "dense": lambda shapes: DenseMemory(shapes, **ROOM),
    "sparse": lambda shapes: sparse(shapes, 3),
}
MORE_MEMORIES = {
    "naive": NaiveMemory,
    "sparse, window longer than the text": lambda shapes: sparse(shapes, 200),
    "sparse, learned to keep": lambda shapes: sparse(shapes, 5, Learned),
    "sparse, in plain torch": lambda shapes: sparse(shapes, 3, backend="reference"),
}
SOME_FAMILIES = ["qwen3", "llama4", "deepseek_v3"]


def compare(memory, family):
    decoder, texts, expected = family
    memory = memory(decoder.cache_shapes)
    logits = run_ragged(decoder, memory, texts, num_decoded=NUM_DECODED, chunks=CHUNKS)
    for ours, theirs in zip(logits, expected, strict=True):
        assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.fixture(scope="module")
def family(request, tmp_path_factory):
    """A saved tiny model, loaded here, with the logits that transformers gives for whole texts."""
    folder = tmp_path_factory.mktemp("model")
    model = build_tiny(request.param)
    model.save_pretrained(folder)
    texts = ragged_prompts([length + NUM_DECODED for length in PROMPT_LENGTHS])
    with torch.no_grad():
        expected = [model(text[None]).logits[0] for text in texts]
    return load_decoder(folder, decision=DecisionConfig()), texts, expected


@pytest.mark.parametrize("family", CASES, indirect=True)
@pytest.mark.parametrize("memory", MEMORIES)
def test_prefill_chunks_and_decoding_give_the_logits_of_transformers(family, memory):
    compare(MEMORIES[memory], family)


@pytest.mark.parametrize("family", SOME_FAMILIES, indirect=True)
@pytest.mark.parametrize("memory", MORE_MEMORIES)
def test_other_memories_that_keep_all_give_them_too(family, memory):
    compare(MORE_MEMORIES[memory], family)
