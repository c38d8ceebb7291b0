"""The desk: packets of packet assets looked at outside of a run, and nothing of the lake is changed.

opening  definitions, resources and inputs, as a run has them
finding  rows of a table by their tags
row      one packet: arguments, result, failure; calls the function in this process
audits   a sample of packets run again
plans    what a run would compute, why, and for how long
status   how far each packet of a run is
trace    one row back to the source rows; views shows it
why      whether one packet is cached, why it would be computed, and why its result was made
commands the same from a command line
"""

from orcapod_dagster.desk.audits import audit
from orcapod_dagster.desk.opening import Desk
from orcapod_dagster.desk.plans import AssetPlan, plan
from orcapod_dagster.desk.row import PacketRow, packet_row
from orcapod_dagster.desk.status import RunStatus, status
from orcapod_dagster.desk.trace import Trace, TraceStep, trace
from orcapod_dagster.desk.why import Why, why

__all__ = [
    "AssetPlan",
    "Desk",
    "PacketRow",
    "RunStatus",
    "Trace",
    "TraceStep",
    "Why",
    "audit",
    "packet_row",
    "plan",
    "status",
    "trace",
    "why",
]
