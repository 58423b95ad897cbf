"""Recorded decode steps: without a GPU, a recording here is the same computation called again."""

import pytest
import torch

from snello.config.engine import SamplingConfig
from snello.engine.engine import Engine
from snello.engine.replay import Replayer, can_record, choose_compute
from tests.engine.conftest import build_decoder, open_memory

LONG = SamplingConfig(max_new_tokens=40)


class Recorder:
    """Computes nothing when recording, like a graph; playing writes to one and the same tensor."""

    def __init__(self, num_rows_of, hidden_size):
        self.num_recordings = self.num_plays = 0
        self.hidden_size = hidden_size
        self.num_rows_of = num_rows_of

    def __call__(self, compute):
        self.num_recordings += 1
        hidden = torch.full((self.num_rows_of(), self.hidden_size), torch.nan)

        def play():
            self.num_plays += 1
            hidden.copy_(compute())

        return play, hidden


def open_replayed(bench, kind, **given):
    engine = bench.open(kind, eos_ids=(), **given)
    runner = engine._runner
    sizes = []
    recorder = Recorder(lambda: sizes[-1], engine.decoder.config.hidden_size)
    replayer = Replayer(engine.decoder, engine.memory, recorder)

    def compute(tokens, step):
        sizes.append(len(tokens))
        return replayer(tokens, step)

    runner._compute = compute
    return engine, recorder


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_played_steps_give_the_tokens_and_figures_of_computed_ones(bench, prompts, kind):
    plain = bench.open(kind, eos_ids=()).generate(prompts, LONG)
    engine, recorder = open_replayed(bench, kind)
    played = engine.generate(prompts, LONG)
    assert [c.token_ids for c in played] == [c.token_ids for c in plain]
    assert [c.kv_reads for c in played] == [c.kv_reads for c in plain]
    assert [c.peak_live_tokens for c in played] == [c.peak_live_tokens for c in plain]
    assert recorder.num_plays > 30
    engine.memory.check()


def test_a_recording_is_void_when_the_table_of_pages_moves(bench, prompts):
    engine, recorder = open_replayed(bench, "dense")
    engine.generate(prompts[:1], LONG)
    before = recorder.num_recordings
    widened = SamplingConfig(max_new_tokens=200)
    plain = bench.open("dense", eos_ids=()).generate(prompts[:1], widened)
    assert engine.generate(prompts[:1], widened)[0].token_ids == plain[0].token_ids
    assert before < recorder.num_recordings < recorder.num_plays


def test_only_a_gpu_records(bench):
    engine = bench.open()
    assert not can_record(engine.decoder, engine.memory)
    assert choose_compute(engine.decoder, engine.memory) is engine.decoder


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a graph can be recorded on a GPU only")
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_recorded_graph_gives_what_its_steps_give_one_by_one(prompts, kind):
    decoder = build_decoder().to("cuda")
    replies = []
    for is_recorded in (True, False):
        memory = open_memory(decoder, kind, device="cuda")
        assert memory.backend == "triton"
        engine = Engine(decoder, memory, seed=0)
        if not is_recorded:
            engine._runner._compute = decoder
        replies.append([c.token_ids for c in engine.generate(prompts, LONG)])
    assert replies[0] == replies[1]
