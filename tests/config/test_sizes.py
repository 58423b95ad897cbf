"""Amounts of memory as people write them."""

import pytest

from snello.config.sizes import parse_bytes


@pytest.mark.parametrize(
    ("amount", "num_bytes"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("2GiB", 2 * 2**30),
        ("512 mib", 512 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("2GB", 2 * 10**9),
        (" 7 B ", 7),
    ],
)
def test_amounts_are_read(amount, num_bytes):
    assert parse_bytes(amount) == num_bytes


@pytest.mark.parametrize("amount", ["", "2 giga", "GiB", "-1GiB", 0, -5, "0.1B", "1e9"])
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(ValueError, match="is no amount of memory; give bytes as a number"):
        parse_bytes(amount)
