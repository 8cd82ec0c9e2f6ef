"""A replay benchmark: real searchers and schedulers on recorded learning curves, in virtual time."""
