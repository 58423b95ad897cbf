"""Two processes over gloo take the steps that one takes with the double batch."""

import json
import multiprocessing
import socket

import pytest
import torch

from snello.models.adapter import load_model
from snello.retrofit import trainer
from snello.retrofit.processes import join_processes
from snello.retrofit.runfolder import LOG, STATE

pytest.importorskip("accelerate")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def work(rank, port, config):
    import os

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    trainer.run(config)


def run_in_two(config):
    fork = multiprocessing.get_context("fork")
    port = free_port()
    workers = [fork.Process(target=work, args=(rank, port, config)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]


def read_log(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "all", "batching": "padded"},
        pytest.param({"train": "lora", "accumulation": 2}, marks=pytest.mark.slow),
        pytest.param({"train": "decision"}, marks=pytest.mark.slow),
        pytest.param({"train": "all", "variant": "borrowed"}, marks=pytest.mark.slow),
    ],
    ids=["all", "lora", "decision", "borrowed"],
)
def test_two_processes_give_the_loss_of_one_with_the_double_batch(recipe, tmp_path, changes):
    changes = {"steps": 5, "ramp_steps": 3, "device": "cpu", **changes}
    alone = recipe(out=tmp_path / "alone", rows=2, **changes)
    pair = recipe(out=tmp_path / "pair", rows=1, **changes)
    trainer.run(alone)
    run_in_two(pair)
    ours, theirs = read_log(alone.out), read_log(pair.out)
    assert len(ours) == len(theirs) == 5
    for one, two in zip(ours, theirs, strict=True):
        for name in ("loss", "kl", "compression", "kept_fraction", "measured_factor", "num_tokens"):
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-6), (name, one["step"])
    first, second = (load_model(config.out).decoder.state_dict() for config in (alone, pair))
    for name, tensor in first.items():
        assert float((tensor - second[name]).norm()) <= 0.05 * float(tensor.norm()), name


@pytest.mark.slow
def test_a_pair_that_was_stopped_goes_on_where_it_was(recipe, tmp_path):
    changes = {"steps": 6, "ramp_steps": 3, "device": "cpu", "train": "all", "rows": 1}
    straight = recipe(out=tmp_path / "straight", **changes)
    again = recipe(out=tmp_path / "again", save_every_steps=4, **changes)
    run_in_two(straight)
    run_in_two(again)
    whole = (again.out / "model.safetensors").read_bytes()
    state = torch.load(again.out / STATE, weights_only=True)
    assert state["step"] == 6
    assert whole == (straight.out / "model.safetensors").read_bytes()
    run_in_two(again)
    assert whole == (again.out / "model.safetensors").read_bytes()


def test_one_process_needs_no_group(recipe):
    with join_processes(recipe()) as processes:
        values = torch.tensor([1.0, 2.0])
        assert processes.accelerator is None
        assert torch.equal(processes.add_up(values), values)


def test_a_device_that_is_not_there_gets_one_line(recipe):
    with (
        pytest.raises(ValueError, match="device is 'tpu9'; it must be cpu, cuda"),
        join_processes(recipe(device="tpu9")),
    ):
        pass
    if not torch.cuda.is_available():
        with (
            pytest.raises(ValueError, match="torch sees no CUDA here"),
            join_processes(recipe(device="cuda")),
        ):
            pass
