"""Eviction logits: worked out on paper, read where they should be, and hidden from every score."""

import pytest
import torch

from snello.config.dms import DecisionConfig
from snello.models.checkpoint import load_decoder
from snello.models.decision import AdapterDecision, BorrowedDecision
from snello.models.decoder import Decoder
from tests.models.naive_memory import NaiveMemory
from tests.models.tiny import build_tiny

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
LATENT = "deepseek_v2 greedy without query rank"


@pytest.fixture(scope="module", params=["qwen3", "llama4", "nemotron", LATENT, "deepseek_v3"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    build_tiny(request.param).save_pretrained(path)
    return path


def run(decoder: Decoder, wants_decisions=True):
    """The last hidden states, and the logits of every layer."""
    memory = NaiveMemory(decoder.cache_shapes, wants_decisions)
    step = memory.begin([memory.add()], [len(TOKENS)])
    return decoder(TOKENS, step), step.logits


def test_an_adapter_on_a_page_of_paper():
    """x = (3, 4) has root mean square 3.5355; normed (0.8485, 1.1314); weight 0.1 on the first."""
    decision = AdapterDecision(DecisionConfig(), hidden_size=2, num_heads=1, eps=0.0)
    with torch.no_grad():
        decision.proj.weight.copy_(torch.tensor([[0.1, 0.0]]))
    logit = decision(torch.tensor([[3.0, 4.0]]))
    assert logit.item() == pytest.approx(100 * 0.08485 - 5, abs=1e-3)


def test_a_borrowed_neuron_on_a_page_of_paper():
    """4 query heads in 2 groups: heads 0 and 2 lend their last dimension."""
    decision = BorrowedDecision(DecisionConfig(variant="borrowed"), 4, 2)
    q = torch.arange(12.0).view(1, 4, 3)
    assert decision.read(q).tolist() == [[100 * 2.0 - 5, 100 * 8.0 - 5]]
    assert decision.hide(q)[0].tolist() == [[0, 1, 0], [3, 4, 5], [6, 7, 0], [9, 10, 11]]
    decision.fade = 0.5
    assert decision.hide(q)[0, :, 2].tolist() == [1.0, 5.0, 4.0, 11.0]
    assert q[0, 0, 2] == 2.0


def test_one_decision_for_the_layer_is_repeated_for_its_heads():
    config = DecisionConfig(variant="borrowed", granularity="layer")
    decision = BorrowedDecision(config, 4, 2)
    q = torch.arange(12.0).view(1, 4, 3)
    assert decision.read(q).tolist() == [[195.0, 195.0]]
    assert decision.hide(q)[0, :, 2].tolist() == [0.0, 5.0, 8.0, 11.0]
    adapter = AdapterDecision(DecisionConfig(granularity="layer"), 8, 2, eps=1e-6)
    assert adapter.proj.weight.shape == (1, 8)
    assert adapter(torch.randn(5, 8)).shape == (5, 2)


def test_an_adapter_reads_the_stream_before_the_norm_of_its_layer(folder):
    decoder = load_decoder(folder, decision=DecisionConfig())
    for layer in decoder.model.layers:
        torch.nn.init.normal_(layer.decision.proj.weight, std=0.01)
    streams = []
    for layer in decoder.model.layers:
        layer.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    _, logits = run(decoder)
    for index, layer in enumerate(decoder.model.layers):
        assert torch.equal(logits[index], layer.decision(streams[index]))
        assert logits[index].shape == (8, decoder.cache_shapes[index].num_heads)


def test_an_adapter_changes_no_hidden_state_and_is_read_only_when_wanted(folder):
    plain, _ = run(load_decoder(folder), wants_decisions=False)
    decoder = load_decoder(folder, decision=DecisionConfig())
    read, logits = run(decoder)
    assert torch.equal(read, plain)
    assert all(logit.unique().tolist() == [-5.0] for logit in logits.values())
    decoder.model.layers[0].decision.proj.weight.data.fill_(float("nan"))
    unread, logits = run(decoder, wants_decisions=False)
    assert torch.equal(unread, plain)
    assert set(logits.values()) == {None}


def borrowed_rows(decoder, layer):
    """The rows of the query projection that the decision reads."""
    attention = decoder.model.layers[layer].self_attn
    projection = getattr(attention, "q_b_proj", None) or attention.q_proj
    size = projection.weight.shape[0] // decoder.config.num_heads
    stride = size * decoder.config.num_heads // decoder.cache_shapes[layer].num_heads
    return projection.weight, list(range(size - 1, len(projection.weight), stride))


@torch.no_grad()
def test_a_borrowed_neuron_reaches_the_logits_and_no_score(folder):
    """The eviction logits follow the neuron's weights; hidden states do not, at any layer.

    (Where queries are normed first, the neuron is part of that norm, and so does reach the rest.)
    """
    decoder = load_decoder(folder, decision=DecisionConfig(variant="borrowed"))
    before, logits_before = run(decoder)
    last = decoder.config.num_layers - 1
    for layer in range(decoder.config.num_layers):
        weight, rows = borrowed_rows(decoder, layer)
        weight[rows] *= -3.0
    after, logits_after = run(decoder)
    assert not torch.allclose(logits_before[last], logits_after[last])
    if decoder.config.qk_norm != "rms":
        assert torch.equal(before, after)


@torch.no_grad()
def test_what_rotation_mixes_into_the_borrowed_dimension_is_hidden_again(folder):
    decoder = load_decoder(folder, decision=DecisionConfig(variant="borrowed"))
    memory = NaiveMemory(decoder.cache_shapes, wants_decisions=True)
    step = memory.begin([memory.add()], [len(TOKENS)])
    attend, seen = step.attend, []

    def watch(layer, q, *rest, scale):
        seen.append(q[:, :: q.shape[1] // decoder.cache_shapes[layer].num_heads, -1])
        return attend(layer, q, *rest, scale=scale)

    step.attend = watch
    decoder(TOKENS, step)
    assert len(seen) == decoder.config.num_layers
    assert all(borrowed.abs().max() == 0.0 for borrowed in seen)


@torch.no_grad()
def test_an_unfaded_neuron_leaves_the_base_as_it_was(folder):
    plain, _ = run(load_decoder(folder), wants_decisions=False)
    decoder = load_decoder(folder, decision=DecisionConfig(variant="borrowed"))
    decoder.set_fade(1.0)
    assert torch.equal(run(decoder)[0], plain)
    decoder.set_fade(0.0)
    assert not torch.allclose(run(decoder)[0], plain)


def test_gradients_reach_both_kinds_of_decision(folder):
    for variant in ("adapter", "borrowed"):
        decoder = load_decoder(folder, decision=DecisionConfig(variant=variant))
        _, logits = run(decoder)
        sum(logit.sum() for logit in logits.values()).backward()
        for index, layer in enumerate(decoder.model.layers):
            weight, rows = borrowed_rows(decoder, index)
            read = layer.decision.proj.weight.grad if variant == "adapter" else weight.grad[rows]
            assert read.abs().min() > 0.0
