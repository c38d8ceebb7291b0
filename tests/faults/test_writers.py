"""Campaign: 4 writers of one result table are killed again and again."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from campaigns import rounds

from faults import workers
from faults.harness import acknowledged, check_results, finish, start, table_of
from orcapod_dagster.core.columns import INPUT_HASH
from orcapod_dagster.core.hashing import hash_rows

pytestmark = pytest.mark.slow

PACKETS = 4_000
"""Per writer; the next one of its number begins in the middle of them, and so do its neighbours."""


def test_writers_of_one_cache_are_killed(processes: Any, tmp_path: Path) -> None:
    """4 writers of one result table, killed again and again: acknowledged results stay, every packet is there in the end."""
    pick = random.Random(2)
    running: dict[int, Any] = {}
    acknowledgements = [tmp_path / f"acknowledged-{number}" for number in range(4)]
    kills = begun = 0
    while kills < rounds(6, 200):
        for number in range(4):
            if number not in running or not running[number].is_alive():
                first = begun * PACKETS // 4
                running[number] = start(processes, workers.compute, str(tmp_path), number, first, first + PACKETS)
                begun += 1
        time.sleep(pick.uniform(0, 0.6))
        victim = running[pick.randrange(4)]
        kills += victim.is_alive()
        victim.kill()
        victim.join()
        if kills % 10 == 0:
            check_results(acknowledgements)
    finish([process for process in running.values() if process is not victim])
    last = (begun + 3) * PACKETS // 4
    finish([start(processes, workers.compute, str(tmp_path), 0, 0, last)])
    check_results(acknowledgements)
    (uri,) = acknowledged(acknowledgements)
    results = table_of(uri)
    wanted = hash_rows({"x": pa.array(range(last))}).cast(pa.binary())
    assert pc.all(pc.is_in(wanted, value_set=pc.unique(results[INPUT_HASH]))).as_py()
