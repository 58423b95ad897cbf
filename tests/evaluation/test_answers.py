r"""Final answers: after the thought, in the last box, compared as mathematics."""

import time
import warnings

import pytest

from snello.evaluation.answers import (
    are_equal,
    drop_thought,
    find_boxed,
    find_last_number,
    normalize,
    verify_equal,
)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<think>or \\boxed{1}</think> \\boxed{2}", "\\boxed{2}"),
        ("or \\boxed{1}</think>\n\n\\boxed{2}\n", "\\boxed{2}"),
        ("\\boxed{2}", "\\boxed{2}"),
        ("<think>or \\boxed{1}", ""),
        ("a</think>b</think>c", "c"),
    ],
)
def test_what_is_said_stands_after_the_thought(reply, said):
    assert drop_thought(reply) == said


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {x}", "x"),
        (r"\fbox{7}", None),
        (r"\fboxed{7}", "7"),
        (r"\boxed{\left\{ 1 \right\}}", r"\left\{ 1 \right\}"),
        (r"\boxed{3} and \boxed{4", "3"),
        ("nothing", None),
    ],
)
def test_the_last_whole_box_counts(text, boxed):
    assert find_boxed(text) == boxed


def test_the_last_number():
    assert find_last_number("It is 3 apples, so $1,234.50 in all.") == "1234.50"
    assert find_last_number("from 7 to -12.") == "-12"
    assert find_last_number("none") is None


@pytest.mark.parametrize(
    "same",
    [
        ["1/2", r"\frac12", r"\dfrac{1}{2}", "0.5", ".5", r"\frac{1}{2}."],
        ["1234", "1,234", r"1{,}234", "1234.0", "01234", r"\$1,234"],
        [r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", r"(3,\ \tfrac{\pi}{2})"],
        [r"\leftarrow", r" \leftarrow "],
        [r"\text{Evelyn}", "Evelyn", r"\textbf{ Evelyn }"],
        ["-3/4", r"-\frac{3}{4}", "-0.75"],
    ],
)
def test_equal_answers_share_a_form(same):
    assert len({normalize(answer) for answer in same}) == 1


def test_other_answers_do_not():
    others = ["1/2", "1/3", "x", "12", "1,2", "(1,2)", "1/0", "2/1/3"]
    assert len({normalize(answer) for answer in others}) == len(others)


class TestMathVerify:
    @pytest.fixture(autouse=True)
    def _needs_it(self):
        pytest.importorskip("math_verify")

    @pytest.mark.parametrize(
        ("reference", "answer"),
        [
            (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
            ("x^2-1", "(x-1)(x+1)"),
            (r"\{1,2\}", r"\{2,1\}"),
        ],
    )
    def test_answers_that_are_written_otherwise_are_equal(self, reference, answer):
        assert normalize(reference) != normalize(answer)
        assert are_equal(reference, answer)

    @pytest.mark.parametrize(
        ("reference", "answer"),
        [("1/2", "1/3"), ("(1,2)", "(2,1)"), ("x+1", "x"), ("7", "seven } {"), ("204", "")],
    )
    def test_wrong_answers_are_not(self, reference, answer):
        assert not are_equal(reference, answer)

    def test_a_comparison_without_end_is_given_up_aloud(self, monkeypatch):
        import math_verify

        def verify(*sides, timeout_seconds):
            time.sleep(timeout_seconds)
            return False

        monkeypatch.setattr(math_verify, "verify", verify)
        with pytest.warns(UserWarning, match="math-verify gave up after 1 s comparing '7' with"):
            assert not verify_equal("7", "8", seconds=1)

    def test_a_wrong_answer_is_no_reason_to_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not verify_equal("7", "8")


def test_without_math_verify_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    assert are_equal("1/2", "0.5")  # written alike, so nobody need be asked
    with pytest.raises(ValueError, match=r"needs the package math-verify; pip install 'snello"):
        are_equal("x+1", "1+x")
