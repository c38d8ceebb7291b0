"""What the flights made up en route, and whether the wind had to do with it."""

from typing import NamedTuple

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from example_project.sources import MONTHS, flights
from orcapod_dagster import SkipPacket, packet_asset


class MadeUp(NamedTuple):
    """Minutes by which a delay shrank between departure and arrival; negative where it grew."""

    made_up_min: int
    made_up_min_per_hour: float


@packet_asset(
    inputs=flights,
    tag_columns=["flight_id", "date"],
    carry=["carrier"],
    partitions_def=MONTHS,
    group_name="flights",
)
def time_made_up(dep_delay: int | None, arr_delay: int | None, air_time: int | None) -> MadeUp:
    """How much of its delay a flight made up in the air, in all and per hour; flights that did not arrive are skipped."""
    if dep_delay is None or arr_delay is None or air_time is None:
        raise SkipPacket("cancelled or diverted")
    minutes = dep_delay - arr_delay
    return MadeUp(minutes, minutes / (air_time / 60))


@dg.asset(
    group_name="report",
    ins={
        "headwind": dg.AssetIn(metadata={"columns": ["flight_id", "headwind_kmh", "ground_speed_kmh"]}),
        "time_made_up": dg.AssetIn(metadata={"columns": ["flight_id", "made_up_min"]}),
    },
)
def headwind_effect(headwind: pa.Table, time_made_up: pa.Table) -> pa.Table:
    """Mean ground speed and mean time made up, by headwind at departure in steps of 10 km/h."""
    both = headwind.join(time_made_up, keys="flight_id", join_type="inner")
    step = pc.multiply(pc.floor(pc.divide(both["headwind_kmh"], 10)), 10).cast(pa.int64())
    means = [("flight_id", "count"), ("ground_speed_kmh", "mean"), ("made_up_min", "mean")]
    report = both.append_column("headwind_from_kmh", step).group_by("headwind_from_kmh").aggregate(means)
    names = {
        "flight_id_count": "flights",
        "ground_speed_kmh_mean": "mean_ground_speed_kmh",
        "made_up_min_mean": "mean_made_up_min",
    }
    return report.rename_columns({name: names.get(name, name) for name in report.column_names}).sort_by(
        "headwind_from_kmh"
    )
