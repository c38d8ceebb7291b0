"""What Dagster loads: the assets of this project and the resources that they need."""

import os

import dagster as dg

from example_project import delays, routes, sources, speeds, winds
from orcapod_dagster import LocalExecutorResource, RayExecutorResource, packet_resources

EXECUTORS = {"local": LocalExecutorResource, "ray": RayExecutorResource}

assets = dg.load_assets_from_modules([sources, routes, speeds, winds, delays])
resources = packet_resources(
    root_uri=os.environ.get("ORCAPOD_LAKE", "lake"),
    executor=EXECUTORS[os.environ.get("EXECUTOR", "local")](),
    as_default=True,
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="All assets, for one month or for a range of months.",
)
# Rows run side by side on the packet executor; so a process for every step would only take time.
defs = dg.Definitions(assets=assets, jobs=[everything], resources=resources, executor=dg.in_process_executor)
