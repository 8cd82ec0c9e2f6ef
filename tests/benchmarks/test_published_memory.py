"""Honesty: predictions beside published figures of real GPUs."""

import pytest

from tests.benchmarks.published_memory.predict import predicted_bytes
from tests.benchmarks.published_memory.rows import ROWS, PublishedRow

KNOWN = [row for row in ROWS if row.known]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.name)
def test_known_set_ups_are_within_five_percent(row: PublishedRow) -> None:
    assert predicted_bytes(row) == pytest.approx(row.published_bytes, rel=0.05)


def test_every_row_says_where_it_is_from_and_what_is_unknown() -> None:
    assert len(KNOWN) >= 4
    for row in ROWS:
        assert row.source.startswith("https://")
        assert row.unknown
