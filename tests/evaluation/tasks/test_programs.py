"""Programs in replies, and outputs that agree."""

import pytest

from snello.evaluation.tasks.programs import find_program, is_same_output


@pytest.mark.parametrize(
    ("said", "program"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\n```\nor\n```Python3 title\nx = 2\n\n```", "x = 2"),
        ("```python\nx = 1\n```\nprints\n```text\n7\n```", "x = 1"),
        ("```python\nx = '```'\n```", "x = '```'"),
        ("```python\nx = 1", None),
        ("x = 1", None),
    ],
)
def test_the_last_python_block_is_the_program(said, program):
    assert find_program(said) == program


@pytest.mark.parametrize(
    ("wanted", "written", "same"),
    [
        ("1 2\n3\n", "1 2 \n3", True),
        ("0.5", "0.50", True),
        ("1 2", "1  2", True),
        ("yes", "Yes", False),
        ("1\n2", "1 2", False),
        ("50000000000000000", "50000000000000001", False),
        ("a b", "a  b", False),
        ("", "\n", True),
    ],
)
def test_outputs_agree_line_by_line(wanted, written, same):
    assert is_same_output(wanted, written) == same
