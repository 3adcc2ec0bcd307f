"""Networks behind the metrics."""
