"""Which routes were flown, and how far and in which direction they lead."""

import math
from typing import NamedTuple

import dagster as dg
import pyarrow as pa

from orcapod_dagster import SkipPacket, packet_asset


@dg.asset(group_name="routes", ins={"flights": dg.AssetIn(metadata={"columns": ["origin", "dest"]})})
def routes(flights: pa.Table, airports: pa.Table) -> pa.Table:
    """Pairs of airports that were flown at least once, with their coordinates where they are known.

    Four airports in Puerto Rico and the Virgin Islands are missing in `airports`; their coordinates are null.
    """
    flown = flights.group_by(["origin", "dest"]).aggregate([])
    for end in ("origin", "dest"):
        places = airports.select(["faa", "lat", "lon"]).rename_columns([end, f"{end}_lat", f"{end}_lon"])
        flown = flown.join(places, keys=end, join_type="left outer")
    return flown.sort_by([("origin", "ascending"), ("dest", "ascending")])


class Geometry(NamedTuple):
    """How a route lies on the globe."""

    distance_km: float
    bearing_deg: float


@packet_asset(inputs=routes, tag_columns=["origin", "dest"], group_name="routes")
def route_geometry(
    origin_lat: float | None, origin_lon: float | None, dest_lat: float | None, dest_lon: float | None
) -> Geometry:
    """Length of the great circle and the bearing at departure, in degrees clockwise from north."""
    if origin_lat is None or origin_lon is None or dest_lat is None or dest_lon is None:
        raise SkipPacket("an airport of this route has no coordinates")
    return Geometry(
        distance_km=great_circle_km(origin_lat, origin_lon, dest_lat, dest_lon),
        bearing_deg=initial_bearing(origin_lat, origin_lon, dest_lat, dest_lon),
    )


def great_circle_km(lat: float, lon: float, to_lat: float, to_lon: float) -> float:
    """Return the distance of two points given in degrees, by the haversine formula."""
    phi, to_phi = math.radians(lat), math.radians(to_lat)
    half_dphi, half_dlambda = (to_phi - phi) / 2, math.radians(to_lon - lon) / 2
    chord = math.sin(half_dphi) ** 2 + math.cos(phi) * math.cos(to_phi) * math.sin(half_dlambda) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(chord))


def initial_bearing(lat: float, lon: float, to_lat: float, to_lon: float) -> float:
    """Return the direction in which the great circle to the second point leaves the first, in [0, 360)."""
    phi, to_phi, dlambda = math.radians(lat), math.radians(to_lat), math.radians(to_lon - lon)
    east = math.sin(dlambda) * math.cos(to_phi)
    north = math.cos(phi) * math.sin(to_phi) - math.sin(phi) * math.cos(to_phi) * math.cos(dlambda)
    return math.degrees(math.atan2(east, north)) % 360
