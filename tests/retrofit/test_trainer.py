"""Whole retrofits of a tiny base: what trains, what stays, what is written, what is refused."""

import json
import math

import pytest
import torch

from snello.cache.training import TrainingMemory
from snello.models.adapter import load_model
from snello.models.checkpoint import load_decoder
from snello.models.names import is_of_decision
from snello.ops.soft_attend import resolve
from snello.retrofit import trainer
from snello.retrofit.objective import Objective
from snello.retrofit.runfolder import LOG, SETTINGS, STATE

WAYS = [(t, v) for t in ("decision", "lora", "all") for v in ("adapter", "borrowed")]


def read_log(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def hidden_of(decoder, decision):
    tokens = torch.arange(40) + 10
    memory = TrainingMemory(
        torch.zeros(1, 40, dtype=torch.long),
        decoder.cache_shapes,
        attend=resolve("reference"),
        decision=decision,
    )
    with torch.no_grad():
        return decoder(tokens, memory)


@pytest.mark.parametrize(("train", "variant"), WAYS)
def test_every_way_to_train_gives_a_folder_that_loads_as_what_was_trained(recipe, train, variant):
    config = recipe(train=train, variant=variant)
    students = []
    original = trainer.build_student

    def keep(*arguments):
        students.append(original(*arguments))
        return students[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_student", keep)
        outcome = trainer.run(config)
    assert outcome.is_finished
    assert outcome.step == 8
    loaded = load_model(config.out)
    assert loaded.decision == config.decision
    student = students[0].decoder.eval()
    student.set_fade(0.0)
    expected = hidden_of(student, config.decision)
    torch.testing.assert_close(hidden_of(loaded.decoder, loaded.decision), expected)
    assert loaded.card is not None
    assert loaded.card.provenance["measured_factor"] >= 1.0


def test_the_decision_alone_leaves_the_base_as_it_was(recipe, tiny_base):
    config = recipe()
    trainer.run(config)
    base, loaded = load_decoder(tiny_base), load_model(config.out)
    own = dict(loaded.decoder.named_parameters())
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, own[name]), name
    assert any(bool(p.any()) for n, p in own.items() if n.endswith("decision.proj.weight"))


def test_borrowed_rows_are_all_that_changes_when_they_alone_train(recipe, tiny_base):
    config = recipe(variant="borrowed")
    trainer.run(config)
    base = dict(load_decoder(tiny_base).named_parameters())
    for name, parameter in load_model(config.out).decoder.named_parameters():
        changed = (parameter != base[name]).reshape(len(parameter), -1).any(1).nonzero().flatten()
        expected = [7, 23] if name.endswith("q_proj.weight") else []  # heads 0 and 2 of size 8
        assert changed.tolist() == expected, name


def test_eviction_rises_towards_its_target(recipe):
    config = recipe(steps=40, ramp_steps=4, learning_rate=5e-2, save_every_steps=40)
    trainer.run(config)
    rows = read_log(config.out)
    assert rows[0]["kept_fraction"] > 0.97
    assert rows[-1]["kept_fraction"] < 0.5
    assert rows[-1]["measured_factor"] > 1.3


def test_each_whole_factor_leaves_a_checkpoint_that_loads(recipe):
    config = recipe()
    trainer.run(config)
    for whole in (2, 3):
        card = load_model(config.out / f"factor-{whole}").card
        assert card is not None
        assert card.factor == whole
    assert not (config.out / "factor-4").exists()
    final = load_model(config.out).card
    assert final is not None
    assert final.factor == 4.0


def test_nothing_is_evicted_while_a_borrowed_neuron_fades(recipe):
    config = recipe(variant="borrowed", train="all")
    trainer.run(config)
    rows = read_log(config.out)
    assert [row["kept_fraction"] for row in rows[:2]] == [1.0, 1.0]
    assert rows[0]["kl"] < 1e-6
    assert 0.9 < rows[2]["kept_fraction"] < 1.0


def test_packed_padded_checkpointed_and_bfloat16_runs_all_end_well(recipe, tmp_path):
    rows = {}
    for name, changes in {
        "packed": {},
        "padded": {"batching": "padded"},
        "checkpointed": {"checkpointing": True},
        "bfloat16": {"precision": "bfloat16"},
        "chunked": {"kl_chunk_tokens": 7},
        "teacher": {"kl_direction": "teacher"},
    }.items():
        config = recipe(out=tmp_path / name, train="all", steps=4, ramp_steps=3, **changes)
        assert trainer.run(config).is_finished
        rows[name] = read_log(config.out)
    for name in ("checkpointed", "chunked"):
        for row, plain in zip(rows[name], rows["packed"], strict=True):
            assert math.isclose(row["loss"], plain["loss"], rel_tol=1e-4), name
    assert rows["teacher"][-1]["loss"] != rows["packed"][-1]["loss"]


def test_one_large_batch_and_two_accumulated_halves_take_the_same_first_step(recipe, tmp_path):
    firsts = []
    for rows, accumulation in ((4, 1), (2, 2)):
        config = recipe(
            out=tmp_path / str(rows),
            rows=rows,
            accumulation=accumulation,
            steps=1,
            ramp_steps=1,
            train="all",
        )
        trainer.run(config)
        firsts.append(load_model(config.out).decoder.state_dict())
    for name, tensor in firsts[0].items():
        torch.testing.assert_close(tensor, firsts[1][name], rtol=1e-3, atol=1e-6, msg=name)


def test_two_learning_rates_are_for_the_decision_and_for_the_body(recipe):
    config = recipe(train="all", body_learning_rate=1e-12, steps=3, ramp_steps=2)
    trainer.run(config)
    for name, parameter in load_model(config.out).decoder.named_parameters():
        if name.endswith("decision.proj.weight"):
            assert float(parameter.detach().abs().max()) > 1e-4
        elif is_of_decision(name):
            continue
    base = load_decoder(config.base)
    torch.testing.assert_close(
        hidden_of(load_model(config.out).decoder, None), hidden_of(base, None), atol=1e-4, rtol=0
    )


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(recipe):
    config = recipe()
    forward = Objective.forward
    calls = []

    def poison(self, batch, phase):
        calls.append(phase.step)
        parts = forward(self, batch, phase)
        return parts._replace(divergence=parts.divergence * (torch.nan if phase.step == 5 else 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "forward", poison)
        with pytest.raises(
            ValueError, match=r"loss of step 5 is not finite .* keeps the last good"
        ):
            trainer.run(config)
    assert torch.load(config.out / STATE, weights_only=True)["step"] == 4
    assert not (config.out / "sparsity_config.json").exists()
    trainer.run(config)
    assert (config.out / "sparsity_config.json").exists()


def test_a_window_longer_than_the_rows_is_refused_before_any_work(recipe):
    config = recipe(sequence_tokens=None, window_tokens=256)
    with pytest.raises(ValueError, match="nothing would ever leave the window"):
        trainer.run(config)
    assert not config.out.exists()


def test_a_finished_run_started_again_gives_the_same_files(recipe):
    config = recipe()
    trainer.run(config)
    before = {path.name: path.read_bytes() for path in config.out.glob("*.*")}
    assert trainer.run(config).is_finished
    assert before == {path.name: path.read_bytes() for path in config.out.glob("*.*")}
    assert {SETTINGS, STATE, LOG} <= before.keys()
