"""Decides what to run: configuration, space, sampler, scheduler, sweep."""
