"""What wind the flights took off into."""

import math
from typing import TypedDict

from example_project.routes import route_geometry
from example_project.sources import MONTHS, weather
from example_project.speeds import flight_speed
from orcapod_dagster import SkipPacket, packet_asset

KMH_PER_MPH = 1.609344


class Wind(TypedDict):
    """Wind relative to a direction of flight, in km/h: from ahead, and from the right."""

    headwind_kmh: float
    crosswind_kmh: float


@packet_asset(
    inputs=[flight_speed, weather, route_geometry],
    tag_columns=["flight_id", "date", "origin", "dest", "weather_hour"],
    carry=["ground_speed_kmh"],
    partitions_def=MONTHS,
    group_name="flights",
)
def headwind(wind_dir: float | None, wind_speed: float | None, bearing_deg: float) -> Wind:
    """Wind at the origin in the hour nearest to the departure, relative to the route's first bearing.

    It is measured at the ground; aloft it is stronger and turned, so this says which way the weather pushed, not how
    hard. Hours with variable or missing wind are skipped.
    """
    if wind_dir is None or wind_speed is None:
        raise SkipPacket("the wind was variable or not recorded")
    ahead, right = components(wind_speed * KMH_PER_MPH, math.radians(wind_dir - bearing_deg))
    return {"headwind_kmh": ahead, "crosswind_kmh": right}


def components(speed: float, angle: float) -> tuple[float, float]:
    """Return the parts of a speed along and across, for an angle in radians."""
    return speed * math.cos(angle), speed * math.sin(angle)
