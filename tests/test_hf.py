"""The drop-in for transformers: the same tokens as the engine, real memory freed, clear limits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, pipeline

from snello import hf
from snello.config.engine import EngineConfig, SamplingConfig
from snello.engine.build import serve

TEXTS = [
    "the otter rests near the river. what is heron?",
    "heron",
    "the calm bell glows 4 times above the gate. otter holds 3.",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder, padding_side="left")


@pytest.fixture(scope="module")
def slim(tiny_adapter):
    return hf.load(tiny_adapter)


@pytest.fixture
def batch(tokenizer):
    return tokenizer(TEXTS, return_tensors="pt", padding=True)


def replies(generated, batch, tokenizer):
    """What was generated for each row, without padding after the end."""
    width = batch["input_ids"].shape[1]
    rows = generated[:, width:].tolist()
    return [[i for i in row if i != tokenizer.pad_token_id] for row in rows]


def test_a_model_without_decisions_gives_the_logits_and_tokens_of_transformers(
    tiny_folder, tokenizer
):
    ours, theirs = hf.load(tiny_folder), AutoModelForCausalLM.from_pretrained(tiny_folder)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-4, rtol=0)
    mine = ours.generate(ids, max_new_tokens=30)
    assert torch.equal(mine, theirs.generate(ids, max_new_tokens=30))


def test_greedy_generate_gives_the_tokens_of_the_engine(slim, tiny_adapter, batch, tokenizer):
    generated = slim.generate(**batch, max_new_tokens=40)
    served = serve(tiny_adapter, EngineConfig())
    completions = served.engine.generate(
        [served.codec.encode(text) for text in TEXTS], SamplingConfig(max_new_tokens=40)
    )
    assert replies(generated, batch, tokenizer) == [c.token_ids for c in completions]
    assert max(c.factor for c in completions) > 1.3


def test_left_padding_changes_no_row(slim, batch, tokenizer):
    together = replies(slim.generate(**batch, max_new_tokens=30), batch, tokenizer)
    for text, row in zip(TEXTS, together, strict=True):
        single = tokenizer(text, return_tensors="pt")
        alone = slim.generate(**single, max_new_tokens=30)
        assert replies(alone, single, tokenizer) == [row]


def test_sampling_follows_the_torch_seed_and_returns_several(slim, batch):
    wish = {"do_sample": True, "max_new_tokens": 12, "num_return_sequences": 2, "top_k": 0}
    torch.manual_seed(5)
    first = slim.generate(**batch, **wish)
    torch.manual_seed(5)
    assert torch.equal(first, slim.generate(**batch, **wish))
    assert first.shape[0] == 6
    assert not torch.equal(first[0], first[1])


def test_without_cache_the_tokens_are_the_same(slim, batch):
    cached = slim.generate(**batch, max_new_tokens=10)
    assert torch.equal(cached, slim.generate(**batch, max_new_tokens=10, use_cache=False))


def test_prefill_in_chunks_changes_no_token(slim, batch):
    whole = slim.generate(**batch, max_new_tokens=20)
    assert torch.equal(whole, slim.generate(**batch, max_new_tokens=20, prefill_chunk_size=5))


def test_memory_is_freed_while_generating_and_by_reset(tiny_folder, slim, batch):
    dense = hf.load(tiny_folder)
    wish = {"max_new_tokens": 80, "return_dict_in_generate": True, "eos_token_id": None}
    slim_cache = slim.generate(**batch, **wish).cache
    full_cache = dense.generate(**batch, **wish).cache
    assert slim_cache.get_seq_length() == full_cache.get_seq_length()
    assert slim_cache.memory.num_bytes_in_use < 0.8 * full_cache.memory.num_bytes_in_use
    slim_cache.memory.check()
    slim_cache.reset()
    assert slim_cache.memory.num_bytes_in_use == 0
    slim_cache.memory.check()


def test_a_cache_goes_on_where_it_stopped(slim, tokenizer, batch):
    whole = slim.generate(**batch, max_new_tokens=30, eos_token_id=None)
    half = slim.generate(
        **batch, max_new_tokens=15, eos_token_id=None, return_dict_in_generate=True
    )
    mask = torch.cat([batch["attention_mask"], torch.ones(3, 15, dtype=torch.long)], dim=1)
    rest = slim.generate(
        half.sequences,
        attention_mask=mask,
        cache=half.cache,
        max_new_tokens=15,
        eos_token_id=None,
    )
    assert torch.equal(rest, whole)


def test_step_by_step_calls_give_the_logits_of_one_call(slim, tokenizer):
    ids = tokenizer(TEXTS[2], return_tensors="pt")["input_ids"]
    whole = slim(ids).logits
    cache = slim.open_cache()
    parts = [slim(ids[:, i : i + 1], cache=cache).logits for i in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)
    assert slim(ids, logits_to_keep=1).logits.shape[1] == 1


def test_the_text_generation_pipeline_works(slim, tokenizer, capfd):
    writer = pipeline("text-generation", model=slim, tokenizer=tokenizer, do_sample=False)
    assert "not supported" not in capfd.readouterr().err
    (plain,) = writer("the otter rests", max_new_tokens=5, return_full_text=False)
    ids = tokenizer("the otter rests", return_tensors="pt")
    expected = slim.generate(**ids, max_new_tokens=5)[0, ids["input_ids"].shape[1] :]
    assert plain["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)
    (chat,) = writer([{"role": "user", "content": "what is heron?"}], max_new_tokens=5)
    assert chat["generated_text"][-1]["role"] == "assistant"
    both = writer(TEXTS[:2], batch_size=2, max_new_tokens=5)
    assert len(both) == 2


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"num_beams": 2}, "does not support beam search"),
        ({"prompt_lookup_num_tokens": 3}, "does not support assisted generation"),
        ({"cache_implementation": "static"}, "does not support cache_implementation='static'"),
        ({"cache_implementation": "paged"}, "does not support generate_batch"),
        ({"cache": DynamicCache()}, "a cache of the type DynamicCache"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(slim, batch, wish, message):
    with pytest.raises(ValueError, match=message) as caught:
        slim.generate(**batch, max_new_tokens=5, **wish)
    assert "\n" not in str(caught.value)


def test_padding_on_the_right_is_refused(slim, tokenizer):
    right = tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="right")
    with pytest.raises(ValueError, match="pad on the left"):
        slim(**right)


def test_another_batch_than_before_is_refused(slim, batch):
    cache = slim.open_cache(num_rows=3)
    slim(**batch, cache=cache)
    with pytest.raises(ValueError, match="the cache holds 3 rows and the batch has 1"):
        slim(batch["input_ids"][:1, -1:], cache=cache)


def test_sparse_memory_needs_a_model_that_forgets(tiny_folder):
    with pytest.raises(ValueError, match="has not learned what to forget"):
        hf.load(tiny_folder, memory="sparse")
