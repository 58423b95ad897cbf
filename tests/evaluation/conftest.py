"""One tiny model folder for all tests of this room."""

import pytest

from tests.evaluation.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))
