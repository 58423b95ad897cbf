"""Questions asked at a tiny size: they check, measure and write. The seconds mean nothing."""

import json
from functools import partial

import pytest
import torch

from benchmarks import (
    decode_attention,
    first_token,
    gpu_attention,
    gpu_budget,
    gpu_decode,
    matmul,
    model,
    prefill_attention,
    samples,
)
from benchmarks.bandwidth import Bandwidth
from benchmarks.record import Place
from benchmarks.report import FIGURES, render
from snello.ops.native import load_library

needs_kernels = pytest.mark.skipif(not load_library().is_loaded, reason="no kernels were built")
ON_MODELS = {
    "weights": "int8", "window": 16, "cores": 1, "rounds": 1,
    "engine": (("dtype", "bfloat16"),),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The tiny shape and its adapters; the tokenizer knows one sentence."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "read_library", lambda: iter(["one sentence has few words"]))
        model.main(model.ModelOptions(out=folder, shape="tiny", windows=(16,)))
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    num_threads = torch.get_num_threads()
    small = partial(Bandwidth, num_bytes=2**20)
    for question in (decode_attention, first_token, samples):
        monkeypatch.setattr(question, "Bandwidth", small)
    monkeypatch.setattr(decode_attention, "LEAST_BYTES", 2**16)
    monkeypatch.setattr(prefill_attention, "PRODUCT_SIZE", 64)
    yield
    torch.set_num_threads(num_threads)


def read_lines(folder, question):
    """The lines of a question, each of which has what every line has and what its table shows."""
    lines = [json.loads(line) for line in (folder / f"{question}.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["question"] == question
        assert line["p20"] <= line["p50"] <= line["p80"]
        assert {"unit", "case", "device", "commit", "command"} <= line.keys()
    seen = set().union(*lines)
    assert set(FIGURES[question]) <= seen
    assert render(question, lines).count("\n| ") == 2 + len(lines)
    return lines


@needs_kernels
def test_decode_attention(tmp_path):
    options = decode_attention.Options(
        results=tmp_path, contexts=(300,), batches=(2,), cores=1, repeats=2
    )
    decode_attention.main(options)
    lines = read_lines(tmp_path, "decode_attention")
    assert [line["case"]["kind"] for line in lines] == ["dense", "even", "uneven"]
    assert lines[0]["kv_mb"] > lines[1]["kv_mb"]


@needs_kernels
def test_latent_decode_attention_has_one_head_and_many_queries(tmp_path):
    options = decode_attention.Options(
        results=tmp_path, form="latent", contexts=(300,), batches=(1,), cores=1, repeats=2
    )
    decode_attention.main(options)
    dense, even = read_lines(tmp_path, "decode_attention")
    assert dense["kv_mb"] == round(300 * (576 * 2 + 4) / 1e6, 3)
    assert even["kv_mb"] < dense["kv_mb"]


@needs_kernels
def test_prefill_attention(tmp_path):
    prefill_attention.main(
        prefill_attention.Options(results=tmp_path, tokens=(48,), chunk=20, cores=1, repeats=2)
    )
    lines = read_lines(tmp_path, "prefill_attention")
    assert [line["case"]["kind"] for line in lines] == ["dense", "factor 8"]


@needs_kernels
def test_matmul(tmp_path):
    matmul.main(matmul.Options(results=tmp_path, layers=1, rows=2, cores=1, repeats=1))
    lines = read_lines(tmp_path, "matmul")
    named = {(line["case"]["rows"], line["case"]["what"]) for line in lines}
    assert {(1, "read"), (1, "int8"), (1, "int4"), (2, "peak"), (2, "int4")} <= named


def test_first_token(tmp_path, models):
    options = first_token.Options(
        models=models, results=tmp_path, **ON_MODELS, threads=2, context=40, prompt=24,
        rates=(0.5,), arrivals=4, calm_steps=2, growth=6,
    )  # fmt: skip
    first_token.main(options)
    lines = read_lines(tmp_path, "first_token")
    assert [line["n"] for line in lines] == [4, 4]
    assert [line["preemptions_so_far"] for line in lines] == [0, 0]


def test_samples(tmp_path, models):
    options = samples.Options(
        models=models, results=tmp_path, **ON_MODELS, samples=(1, 3), prompt=60, steps=2
    )
    samples.main(options)
    lines = read_lines(tmp_path, "samples")
    assert [line["case"]["samples"] for line in lines] == [1, 3, 1, 3]
    for line in lines[1::2]:
        assert 0 < line["extra_mb"] < 3 * line["prompt_mb"]


@pytest.mark.parametrize(
    ("count", "alone", "says"),
    [(1, [-1] * 9, "the first got"), (2, [], "1 of 2 samples found room")],
)
def test_what_is_not_as_alone_is_not_timed(models, count, alone, says):
    options = samples.Options(models=models, **ON_MODELS, samples=(1,), prompt=20, steps=2)
    who = samples.gather(options, (8,))[0]
    samples.serve(who, options)
    with pytest.raises(samples.Different, match=says):
        samples.run_family(who, samples.Family(), range(20), count, 2, alone)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a device it measures, and for long")
@pytest.mark.parametrize("question", [gpu_attention, gpu_decode, gpu_budget])
def test_without_a_device_a_toy_runs_and_nothing_is_written(question, tmp_path, capsys):
    question.main(Place(results=tmp_path))
    assert "toy" in capsys.readouterr().out.splitlines()[0]
    assert not list(tmp_path.iterdir())
