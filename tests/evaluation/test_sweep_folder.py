"""A sweep's folder: what was written is kept, what was torn is dropped, settings never mix."""

import pytest

from snello.evaluation.record import write_line
from snello.evaluation.sweep_folder import RECORDS, SESSIONS, SweepFolder
from tests.evaluation.made_up_chains import make_record

SETTINGS = {"seed": 0, "threads": (1, 2), "tasks": ["ledger"]}


def begin(path, **changes):
    return SweepFolder(path, SETTINGS | changes)


def test_what_was_appended_is_there_for_the_next_start(tmp_path):
    records = [make_record(chain=chain) for chain in range(3)]
    folder = begin(tmp_path / "out")
    with folder.start({"commit": "abc"}) as session:
        assert session.number == 0
        for record in records[:2]:
            session.append(record)
    again = begin(tmp_path / "out")
    assert list(again.records.values()) == records[:2]
    with again.start({"commit": "def"}) as session:
        assert session.number == 1
        session.append(records[2])
        session.note({"event": "close", "wall_s": 1.0})
    last = begin(tmp_path / "out")
    assert list(last.records.values()) == records
    starts = [line["commit"] for line in last.sessions if line["event"] == "start"]
    assert starts == ["abc", "def"]


def test_a_line_is_on_disk_as_soon_as_it_was_appended(tmp_path):
    with begin(tmp_path).start({}) as session:
        session.append(make_record())
        assert (tmp_path / RECORDS).read_text() == write_line(make_record()) + "\n"


@pytest.mark.parametrize("torn", [1, 50, -1])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    with begin(tmp_path).start({}) as session:
        session.append(make_record(chain=0))
    with open(tmp_path / RECORDS, "a") as file:
        file.write(write_line(make_record(chain=1))[:torn])
    with open(tmp_path / SESSIONS, "a") as file:
        file.write('{"event": "sta')
    folder = begin(tmp_path)
    assert [key.chain for key in folder.records] == [0]
    with folder.start({}) as session:
        session.append(make_record(chain=1))
    assert [key.chain for key in begin(tmp_path).records] == [0, 1]


def test_a_chain_is_recorded_once(tmp_path):
    with begin(tmp_path).start({}) as session:
        session.append(make_record())
        with pytest.raises(ValueError, match="was recorded before"):
            session.append(make_record())


def test_other_settings_are_refused_by_name(tmp_path):
    begin(tmp_path)
    begin(tmp_path)
    with pytest.raises(ValueError, match="was begun with seed 0, and now it is 1; repeat"):
        begin(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"was begun with threads \[1, 2\], and now it is \[4\]"):
        begin(tmp_path, threads=(4,))
    with pytest.raises(ValueError, match="was begun with extra null, and now it is true"):
        begin(tmp_path, extra=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something that is not a sweep"):
        begin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        begin(tmp_path / "thesis.txt")
