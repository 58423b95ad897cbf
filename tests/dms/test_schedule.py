import pytest

from snello.dms.schedule import Ramp, target_of


def test_factor_eight_asks_to_evict_seven_in_eight():
    assert target_of(8.0) == 0.875
    assert target_of(1.0) == 0.0


def test_the_ramp_of_the_paper():
    """Step / 100 + 1: twice after 100 steps, 4x after 300, 8x after 700, and then it holds."""
    ramp = Ramp.of_paper(8.0)
    assert [ramp.factor_at(step) for step in (0, 50, 100, 300, 700, 799)] == [1, 1.5, 2, 4, 8, 8]


def test_the_ramp_of_the_released_recipe():
    """1 to 16 over 510 of 544 steps; step 238 is the published 8x model."""
    ramp = Ramp.of_released_recipe()
    assert ramp.factor_at(0) == 1.0
    assert ramp.factor_at(238) == pytest.approx(8.0)
    assert ramp.factor_at(510) == ramp.factor_at(543) == 16.0
    assert ramp.steps_of_whole_factors()[8] == 238
    assert ramp.total_steps == 544


def test_the_target_follows_the_factor():
    ramp = Ramp(factor=4.0, ramp_steps=30, total_steps=40)
    assert ramp.target_at(0) == 0.0
    assert ramp.target_at(10) == 0.5
    assert ramp.target_at(30) == ramp.target_at(39) == 0.75


def test_a_whole_factor_is_saved_at_the_first_step_that_trains_for_it():
    """1 + 2.5 * step / 7 reaches 2 at step 2.8 and 3 at step 5.6; 3.5 is not whole."""
    ramp = Ramp(factor=3.5, ramp_steps=7, total_steps=10)
    assert ramp.steps_of_whole_factors() == {2: 3, 3: 6}
    assert ramp.factor_at(2) < 2.0 <= ramp.factor_at(3)
    assert ramp.factor_at(5) < 3.0 <= ramp.factor_at(6)


def test_a_whole_final_factor_is_saved_after_it_was_held():
    assert Ramp(factor=3.0, ramp_steps=10, total_steps=20).steps_of_whole_factors() == {2: 5, 3: 19}


def test_no_step_is_called_early_by_the_last_bits_of_a_quotient():
    for factor in range(2, 20):
        ramp = Ramp(factor=float(factor), ramp_steps=37 * (factor - 1), total_steps=1000)
        steps = ramp.steps_of_whole_factors()
        assert [steps[whole] for whole in range(2, factor)] == [
            37 * (whole - 1) for whole in range(2, factor)
        ]


def test_factor_one_saves_nothing():
    assert Ramp(factor=1.0, ramp_steps=1, total_steps=5).steps_of_whole_factors() == {}


def test_a_borrowed_neuron_fades_before_the_ramp_starts():
    ramp = Ramp(factor=2.0, ramp_steps=10, total_steps=20, warmup_steps=4)
    assert [ramp.fade_at(step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [ramp.factor_at(step) for step in (0, 4, 9, 14, 19)] == [1.0, 1.0, 1.5, 2.0, 2.0]


def test_without_a_warm_up_nothing_of_a_borrowed_neuron_is_left():
    assert Ramp(factor=2.0, ramp_steps=10, total_steps=20).fade_at(0) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0.125}, "for 'keep one in eight' write 8.0, not 0.125"),
        ({"ramp_steps": 0}, "ramp_steps is 0; it must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"total_steps": 9}, "use more steps in all or a shorter ramp"),
    ],
)
def test_a_bad_ramp_is_refused(settings, message):
    good = {"factor": 2.0, "ramp_steps": 10, "total_steps": 20}
    with pytest.raises(ValueError, match=message):
        Ramp(**good | settings)
