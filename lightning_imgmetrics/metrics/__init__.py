"""Metrics: the only place where function, state and network meet."""
