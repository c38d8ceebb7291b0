"""How fast the flights were over ground."""

from example_project.routes import route_geometry
from example_project.sources import MONTHS, flights
from orcapod_dagster import SkipPacket, packet_asset


@packet_asset(
    inputs=[flights, route_geometry],
    tag_columns=["flight_id", "date", "origin", "dest", "weather_hour"],
    output_keys=["ground_speed_kmh"],
    carry=["carrier", "tailnum"],
    partitions_def=MONTHS,
    group_name="flights",
)
def flight_speed(air_time: int | None, distance_km: float) -> float:
    """Mean speed between take-off and landing, along the great circle; `air_time` is in minutes.

    Flights that were cancelled or diverted are skipped; so are, for want of a partner, those on routes of unknown
    length.
    """
    if air_time is None:
        raise SkipPacket("cancelled or diverted")
    return distance_km / hours(air_time)


def hours(minutes: float) -> float:
    """Return minutes as hours."""
    return minutes / 60
