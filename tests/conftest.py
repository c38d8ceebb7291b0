"""Settings of all tests."""

from hypothesis import settings

# How long one example takes says something about the machine and its load, nothing about the code.
settings.register_profile("orcapod", deadline=None)
settings.load_profile("orcapod")
