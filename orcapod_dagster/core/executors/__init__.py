"""Executors: where and how callables run."""
