"""Packed decoders: close to their float ones, the same row by row, refused where they cannot be."""

import pytest
import torch

from snello.engine.build import pack_weights
from snello.models.checkpoint import load_decoder
from snello.models.packed import PackedEmbedding, PackedLinear
from snello.models.packing import pack_decoder
from tests.models.naive_memory import NaiveMemory
from tests.models.running import run_ragged
from tests.models.tiny import ragged_prompts
from tests.models.wide import save_wide

FAMILIES = [
    "llama with biases, tied, one group",
    "qwen3 tied with layer types",
    "nemotron",
    "mixtral",
    "qwen3_moe with plain layers",
    "llama4",
    "deepseek_v3",
    "deepseek_v2 with groups, biases and yarn",
]


def run(decoder, lengths=(37, 5), chunks=(9, 3)):
    memory = NaiveMemory(decoder.cache_shapes)
    texts = ragged_prompts(lengths)
    return torch.cat(run_ragged(decoder, memory, texts, num_decoded=2, chunks=chunks))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's folder, written when it is first asked for."""
    made = {}

    def find(case):
        if case not in made:
            made[case] = save_wide(case, tmp_path_factory.mktemp("wide") / "model")
        return made[case]

    return find


@pytest.mark.parametrize("case", FAMILIES)
def test_a_packed_decoder_is_close_to_the_float_one(case, folders):
    """Random weights, two or more layers: int8 is off by 2 to 4 %, int4 by 25 to 45 %."""
    exact = run(load_decoder(folders(case)))
    for bits, limit in ((8, 0.06), (4, 0.6)):
        decoder = load_decoder(folders(case))
        pack_decoder(decoder, bits, 32)
        assert not [m for n, m in decoder.named_modules() if type(m) is torch.nn.Linear
                    and "kv_b_proj" not in n]  # fmt: skip
        off = (run(decoder) - exact).norm() / exact.norm()
        assert 0 < off < limit


@pytest.mark.parametrize("case", ["qwen3 tied with layer types", "mixtral"])
def test_a_text_in_a_batch_gives_what_it_gives_alone(case, folders):
    decoder = load_decoder(folders(case))
    pack_decoder(decoder, 4, 32)
    texts = ragged_prompts((13, 4, 22))

    def logits(texts, chunks):
        memory = NaiveMemory(decoder.cache_shapes)
        return run_ragged(decoder, memory, texts, num_decoded=3, chunks=chunks)

    together = logits(texts, (10, 1, 19))
    for text, ours, chunk in zip(texts, together, (10, 1, 19), strict=True):
        assert (ours - logits([text], (chunk,))[0]).abs().max() <= 1e-5


def test_tied_embeddings_are_stored_once(folders):
    decoder = load_decoder(folders("qwen3 tied with layer types"))
    pack_decoder(decoder, 8, 32)
    assert isinstance(decoder.model.embed_tokens, PackedEmbedding)
    assert isinstance(decoder.lm_head, PackedLinear)
    assert decoder.lm_head.packed is decoder.model.embed_tokens.packed


def test_an_untied_embedding_stays_exact(folders):
    folder = folders("mixtral")
    decoder, exact = load_decoder(folder), load_decoder(folder)
    pack_decoder(decoder, 8, 32)
    tokens = torch.arange(7)
    assert torch.equal(decoder.model.embed_tokens(tokens), exact.model.embed_tokens(tokens))


def test_bfloat16_decoders_stay_bfloat16(folders):
    folder = folders("qwen3 tied with layer types")
    decoder = load_decoder(folder, dtype=torch.bfloat16)
    pack_decoder(decoder, 8, 32)
    assert run(decoder).dtype == torch.bfloat16


def test_a_group_that_does_not_fit_is_refused_and_nothing_has_changed(folders):
    decoder = load_decoder(folders("qwen3 tied with layer types"))
    before = run(decoder)
    with pytest.raises(ValueError, match=r"down_proj\.weight has 96 inputs, .*group 64; .*take 32"):
        pack_weights(decoder, "int8", 64)
    assert torch.equal(run(decoder), before)


def test_other_devices_than_the_cpu_are_refused(folders):
    decoder = load_decoder(folders("mixtral"), device="meta")
    with pytest.raises(
        ValueError, match="device is 'meta', and weights in int8 or int4 run on the"
    ):
        pack_weights(decoder, "int8", 32)
