"""Conformance suites, for those who bring their own executor; needs pytest."""
