"""Tests of `example_project`: it loads, and each of its packet functions is tested by calling it plainly."""

import datetime as dt
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from example_project import sources
from example_project.definitions import defs
from example_project.delays import headwind_effect, time_made_up
from example_project.demo import EDIT, EDITED_FILE, edited_copy
from example_project.routes import great_circle_km, initial_bearing, route_geometry, routes
from example_project.speeds import flight_speed
from example_project.winds import headwind
from orcapod_dagster import SkipPacket


def test_definitions_load_with_all_assets() -> None:
    """The code location holds every asset of the project, under its function's name."""
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {
        "airports", "flight_speed", "flights", "headwind", "headwind_effect", "route_geometry", "routes",
        "time_made_up", "weather",
    }  # fmt: skip


def test_monthly_assets_have_twelve_partitions() -> None:
    """The assets about flights are partitioned by the months of 2013."""
    graph = defs.resolve_asset_graph()
    for name in ("flights", "flight_speed", "headwind", "time_made_up"):
        assert len(graph.get(dg.AssetKey(name)).partitions_def.get_partition_keys()) == 12


def test_route_from_new_york_to_london() -> None:
    """JFK to Heathrow is 5,540 km, leaving to the north-east."""
    assert route_geometry(40.6397, -73.7789, 51.47, -0.4543) == pytest.approx((5540.2, 51.35), rel=1e-4)


def test_route_without_coordinates_is_skipped() -> None:
    """A route of unknown coordinates is skipped on purpose, not failed."""
    with pytest.raises(SkipPacket, match="coordinates"):
        route_geometry(40.6, -73.8, None, None)


@pytest.mark.parametrize(("to_lat", "to_lon", "bearing"), [(1, 0, 0), (0, 1, 90), (-1, 0, 180), (0, -1, 270)])
def test_bearing_counts_clockwise_from_north(to_lat: float, to_lon: float, bearing: float) -> None:
    """The four cardinal points, seen from the equator."""
    assert initial_bearing(0, 0, to_lat, to_lon) == pytest.approx(bearing)


def test_half_way_round_the_earth() -> None:
    """Antipodes are half a circumference apart, where the haversine is at its limit."""
    assert great_circle_km(0, 0, 0, 180) == pytest.approx(20015, abs=1)


def test_flight_speed_is_distance_per_hour() -> None:
    """600 km in 45 minutes are 800 km/h."""
    assert flight_speed(45, 600.0) == pytest.approx(800.0)


def test_cancelled_flight_has_no_speed() -> None:
    """A flight without air time is skipped."""
    with pytest.raises(SkipPacket):
        flight_speed(None, 600.0)


def test_wind_from_ahead_is_headwind() -> None:
    """An east wind of 10 mph against a flight to the east is a headwind of 16 km/h."""
    assert headwind(90.0, 10.0, 90.0) == pytest.approx({"headwind_kmh": 16.09344, "crosswind_kmh": 0.0})


def test_variable_wind_is_skipped() -> None:
    """Wind without a direction has no component ahead."""
    with pytest.raises(SkipPacket):
        headwind(None, 3.0, 90.0)


def test_time_made_up_is_what_the_delay_shrank_by() -> None:
    """Ten minutes late at departure and four at arrival: six made up, in half an hour."""
    assert time_made_up(10, 4, 30) == (6, 12.0)


def test_flight_that_did_not_arrive_made_up_nothing() -> None:
    """A diverted flight has no delay at arrival and is skipped."""
    with pytest.raises(SkipPacket):
        time_made_up(10, None, None)


def test_departure_meets_the_weather_of_the_nearest_hour() -> None:
    """5:15 with 20 minutes' delay is nearest to 6:00; a cancelled flight keeps its scheduled time."""
    hour = dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)
    hours = sources.nearest_hour(
        pa.chunked_array([[hour, hour]], sources.UTC_TIME), pa.chunked_array([[15, 15]]), pa.chunked_array([[20, None]])
    )
    assert [h.hour for h in hours.to_pylist()] == [6, 5]


def test_flight_ids_are_unique() -> None:
    """Each of the 336,776 flights has an id of its own."""
    table = sources.add_flight_keys(sources.read_csv("flights.csv.zip", sources.FLIGHT_COLUMNS))
    assert table["flight_id"].null_count == 0
    assert len(table["flight_id"].unique()) == table.num_rows == 336_776


def test_weather_has_one_row_per_hour_and_no_impossible_wind() -> None:
    """Its tags are unique, and the reading of 1048 mph is gone."""
    table = sources.weather()
    assert (
        table.select(["origin", "weather_hour"]).group_by(["origin", "weather_hour"]).aggregate([]).num_rows == 26_115
    )
    assert max(speed for speed in table["wind_speed"].to_pylist() if speed is not None) < 50


def test_routes_keep_airports_without_coordinates() -> None:
    """A destination that `airports` does not know stays, with nulls."""
    flown = pa.table({"origin": ["JFK", "JFK", "JFK"], "dest": ["SJU", "LHR", "LHR"]})
    places = pa.table({"faa": ["JFK", "LHR"], "lat": [40.6, 51.5], "lon": [-73.8, -0.5]})
    rows = {row["dest"]: row for row in routes(flown, places).to_pylist()}
    assert set(rows) == {"LHR", "SJU"}
    assert rows["SJU"]["dest_lat"] is None
    assert rows["LHR"]["dest_lat"] == 51.5


def test_headwind_effect_averages_by_steps_of_ten() -> None:
    """Flights are grouped by headwind; one without time made up is left out."""
    winds = pa.table(
        {"flight_id": ["a", "b", "c"], "headwind_kmh": [1.0, 9.0, -3.0], "ground_speed_kmh": [700.0, 800.0, 900.0]}
    )
    made_up = pa.table({"flight_id": ["a", "b"], "made_up_min": [4, 6]})
    assert headwind_effect(winds, made_up).to_pylist() == [
        {"headwind_from_kmh": 0, "flights": 2, "mean_ground_speed_kmh": 750.0, "mean_made_up_min": 5.0}
    ]


def test_demo_edits_exactly_one_place_of_a_copy(tmp_path) -> None:
    """The text that the demo replaces stands in its file once, and the project itself stays as it is."""
    original = (Path(sources.__file__).parent / EDITED_FILE).read_text(encoding="utf-8")
    edited = (edited_copy(tmp_path) / EDITED_FILE).read_text(encoding="utf-8")
    assert edited != original
    assert edited == original.replace(*EDIT)
