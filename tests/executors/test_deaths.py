"""The search for the packet that ended its worker, where nobody knows which one ran."""

from __future__ import annotations

import pytest

from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.deaths import Deaths
from orcapod_dagster.core.executors.tasks import Piece


@pytest.mark.parametrize(("rows", "workers"), [(1, 2), (16, 2), (17, 3), (256, 3), (8_192, 5), (16_384, 5)])
def test_one_packet_is_found_among_many(rows: int, workers: int) -> None:
    """It costs few workers, the last of which ran nothing else; every other row runs to its end once, and none is left out."""
    costs: list[int] = []
    for guilty in (0, rows // 2, rows - 1):
        deaths, died, done = Deaths(at_once=1, batch=1), list[int](), set[int]()
        todo = [Piece(RowBatch((range(rows),), {}, 0, rows), 0, rows)]
        while todo:
            piece = todo.pop(0)
            if piece.first <= guilty < piece.last:
                died.append(piece.length)
                todo += deaths.again(piece)
            else:
                assert done.isdisjoint(range(piece.first, piece.last))
                done.update(range(piece.first, piece.last))
        assert done == set(range(rows)) - {guilty}
        assert died[-1] == 1
        costs.append(len(died))
    assert max(costs) == workers
