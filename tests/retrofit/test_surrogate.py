"""A predictor of an oracle's scores: the scores, the fit, and the folder that the engine reads."""

import pytest
import torch

from snello.config.engine import EngineConfig, SamplingConfig
from snello.engine.build import serve
from snello.models.checkpoint import load_decoder
from snello.retrofit.oracle import score_layer, score_tokens
from snello.retrofit.overhear import Overheard
from snello.retrofit.surrogate import fit_ridge, fit_surrogate, save_surrogate

BRIDGE = [3, 4]


def make_texts(count=6, size=40):
    dice = torch.Generator().manual_seed(1)
    return [torch.randint(5, 60, (size,), generator=dice).tolist() for _ in range(count)]


def test_a_score_on_a_page_of_paper():
    """Text of two tokens, no bridge, one head of one number. The repetition asks from 2 and 3.

    Scores before the softmax are query times key: query 2 asks with 0 (1/3 for each of three),
    query 3 with ln 2 for key 1 only: 1/5, 2/5, 1/5, 1/5. Layers were given lengths 2 and 1; values
    are 3 and -4, the projection doubles: token 0 max(1/3 / 2, 1/5) * 6, token 1 2/5 * 8.
    """
    column = [[[0.0]], [[1.0]], [[0.0]], [[0.0]]]
    queries = torch.zeros(4, 1, 1)
    queries[3] = torch.log(torch.tensor(2.0))
    own = Overheard(
        stream=torch.zeros(4, 1),
        normed=torch.tensor([[9.0], [9.0], [2.0], [1.0]]),
        queries=queries,
        keys=torch.tensor(column),
        values=torch.tensor([[[3.0]], [[-4.0]], [[0.0]], [[0.0]]]),
        scale=1.0,
    )
    scores = score_layer(own, torch.tensor([[2.0]]), 2)
    torch.testing.assert_close(scores, torch.tensor([[1 / 5 * 6, 2 / 5 * 8]]))


def test_scores_are_of_the_text_alone(tiny_folder):
    decoder = load_decoder(tiny_folder)
    (text,) = make_texts(1)
    scores, heard = score_tokens(decoder, text, BRIDGE)
    assert scores.shape == (2, 2, 40)
    assert bool(torch.isfinite(scores).all())
    assert heard[0].keys.shape[0] == 82


def test_a_fit_finds_weights_that_are_there():
    inputs, weights = torch.randn(2, 200, 5), torch.randn(2, 5, 3)
    found = fit_ridge(inputs, inputs @ weights, ridge=1e-6)
    torch.testing.assert_close(found, weights, atol=1e-4, rtol=0)


def test_a_surrogate_is_an_adapter_that_keeps_what_was_asked_for(tiny_folder, tmp_path):
    decoder = load_decoder(tiny_folder)
    texts = make_texts()
    surrogate = fit_surrogate(decoder, texts, BRIDGE, factor=4.0, window_tokens=5)
    assert float(surrogate.explained.min()) > 0.2
    save_surrogate(surrogate, tmp_path / "slim", base=str(tiny_folder), factor=4.0)
    served = serve(tmp_path / "slim", EngineConfig(memory="sparse", max_sequences=8))
    engine = served.engine
    wish = SamplingConfig(max_new_tokens=1, ignore_eos=True)
    live = []
    for text in texts:
        number = engine.add(text, wish, keep=True)
        sequence = engine.wait_for(number).sequence
        heads = [head for layer in engine.portray(sequence) for head in layer]
        live.append(sum(len(head) for head in heads) / len(heads))
        engine.forget(sequence)
    behind = sum(live) / len(live) - 6
    assert behind == pytest.approx((40 - 6) / 4, abs=2.5)


def test_what_cannot_be_fitted_is_refused(tiny_folder):
    decoder = load_decoder(tiny_folder)
    with pytest.raises(ValueError, match="no texts were given"):
        fit_surrogate(decoder, [], BRIDGE, factor=4.0)
    with pytest.raises(ValueError, match=r"at least 1\.0"):
        fit_surrogate(decoder, make_texts(1), BRIDGE, factor=0.5)
