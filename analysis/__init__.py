"""Reads a run folder back: records, Pareto front, report, presets. Needs neither Ray nor torch."""
