"""Benchmarks: a folder for each table."""

import compressor  # noqa: F401 - before any library that would report home, see `compressor.QUIET`
