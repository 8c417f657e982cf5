"""Measuring converted images against the truth: matching files, tables, intervals, pictures."""
