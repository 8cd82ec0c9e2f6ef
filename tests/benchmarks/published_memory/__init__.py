"""Predicted peak memory beside figures that others published for runs on real GPUs."""
