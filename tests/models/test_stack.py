"""The compiled stack against the layers it stands for: the same bits, on every memory it knows."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.dms import DecisionConfig
from snello.models.checkpoint import load_decoder
from snello.models.packing import pack_decoder
from snello.models.stack import CompiledStack, can_stack
from snello.ops.native import load_library
from snello.policies import Learned, Random, Window
from tests.models.wide import save_wide

pytestmark = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
KNOWN = ["llama", "qwen3 tied with layer types", "qwen2"]
UNKNOWN = ["llama with biases, tied, one group", "nemotron", "mixtral", "llama4", "deepseek_v3"]
WINDOW = 5
POLICIES = {"learned": Learned(), "random": Random(0.7), "window": Window()}


def load(case, folder, bits=8, granularity="head"):
    """A packed decoder whose decisions are random."""
    decision = DecisionConfig(window_tokens=WINDOW, granularity=granularity)
    decoder = load_decoder(save_wide(case, folder), decision=decision)
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in decoder.model.layers:
            layer.decision.proj.weight.normal_(std=0.1)
    pack_decoder(decoder, bits, 32)
    return decoder.eval().requires_grad_(False)


def open_memory(decoder, kind, dtype=torch.float32, survivors=None):
    common = {"num_pages": 3000, "page_tokens": 4, "max_sequences": 8, "dtype": dtype}
    if survivors is not None:
        common["survivors"] = survivors
    if kind == "dense":
        return DenseMemory(decoder.cache_shapes, **common)
    rule = {"window_tokens": WINDOW, "shift": 1, "policy": POLICIES[kind]}
    return SparseMemory(decoder.cache_shapes, **rule, **common)


@torch.inference_mode()
def drive(compute, memory, num_steps=24):
    """Prompts of three lengths, then single tokens, one sequence joining late."""
    generator = torch.Generator().manual_seed(0)
    handles, outs = [memory.add() for _ in range(3)], []

    def go(counts, sequences):
        tokens = torch.randint(60, (sum(counts),), generator=generator)
        step = memory.begin(sequences, counts)
        outs.append(compute(tokens, step).clone())
        memory.commit(step)

    go([13, 1, 30], handles)
    for index in range(num_steps):
        if index == 9:
            handles.append(memory.add())
        go([1] * len(handles), handles)
    kept = [memory.portrait(handle) for handle in handles]
    reads = [memory.kv_reads(handle) for handle in handles]
    for handle in handles:
        memory.release(handle)
    memory.check()
    return outs, kept, reads


@pytest.mark.parametrize("kind", ["dense", *POLICIES])
@pytest.mark.parametrize("case", KNOWN)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_step_gives_the_bits_that_the_layers_give(case, kind, bits, tmp_path):
    decoder = load(case, tmp_path / "model", bits)
    memories = [open_memory(decoder, kind) for _ in range(2)]
    assert can_stack(decoder, memories[0])
    stacked, kept, reads = drive(CompiledStack(decoder, memories[0]), memories[0])
    by_layers, same_kept, same_reads = drive(decoder, memories[1])
    assert all(torch.equal(a, b) for a, b in zip(stacked, by_layers, strict=True))
    assert (kept, reads) == (same_kept, same_reads)
    if kind == "learned":
        assert max(len(head) for layer in kept[0] for head in layer) < 40


@pytest.mark.parametrize("num_threads", [1, 3])
def test_bits_do_not_depend_on_pages_of_bfloat16_or_on_threads(num_threads, tmp_path):
    decoder = load(KNOWN[1], tmp_path / "model", granularity="layer")
    memories = [open_memory(decoder, "learned", torch.bfloat16) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        stacked = drive(CompiledStack(decoder, memories[0]), memories[0])
    finally:
        torch.set_num_threads(before)
    by_layers = drive(decoder, memories[1])
    assert all(torch.equal(a, b) for a, b in zip(stacked[0], by_layers[0], strict=True))


@pytest.mark.parametrize("survivors", ["int8", "fp8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_the_same_with_narrow_survivors(survivors, dtype, tmp_path):
    decoder = load(KNOWN[1], tmp_path / "model")
    memories = [open_memory(decoder, "learned", dtype, survivors) for _ in range(2)]
    stacked = drive(CompiledStack(decoder, memories[0]), memories[0])
    by_layers = drive(decoder, memories[1])
    assert all(torch.equal(a, b) for a, b in zip(stacked[0], by_layers[0], strict=True))
    assert stacked[1:] == by_layers[1:]


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_it_does_not_know_runs_layer_by_layer(case, tmp_path):
    decoder = load_decoder(save_wide(case, tmp_path / "model"))
    pack_decoder(decoder, 8, 32)
    assert not can_stack(decoder, open_memory(decoder, "dense"))


def test_other_kernels_other_numbers_and_floats_run_layer_by_layer(tmp_path):
    folder = save_wide(KNOWN[0], tmp_path / "model")
    floats = load_decoder(folder)
    halves = load_decoder(folder, dtype=torch.bfloat16)
    pack_decoder(halves, 8, 32)
    packed = load_decoder(folder)
    pack_decoder(packed, 8, 32)
    plain = DenseMemory(packed.cache_shapes, num_pages=9, max_sequences=1, backend="reference")
    compiled = DenseMemory(packed.cache_shapes, num_pages=9, max_sequences=1)
    assert [can_stack(d, compiled) for d in (floats, halves, packed)] == [False, False, True]
    assert not can_stack(packed, plain)
