"""A record is a line, and a torn line is no record."""

import pytest

from snello.evaluation.record import read_line, write_line
from tests.evaluation.made_up_chains import make_record


def test_a_line_gives_the_record_back():
    record = make_record(answers=(None, "4\u2028\n"), scores=(0.0, 1.0), lengths=(16, 64))
    line = write_line(record)
    assert len(line.splitlines()) == 1
    assert read_line(line) == record


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_line_is_no_record(keep):
    with pytest.raises(ValueError, match="this is no record of a chain"):
        read_line(write_line(make_record())[:keep])


def test_a_line_of_another_kind_is_no_record():
    with pytest.raises(ValueError, match="this is no record of a chain"):
        read_line('{"contender": "slim"}')
