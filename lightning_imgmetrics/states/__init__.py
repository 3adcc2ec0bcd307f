"""Mergeable summaries of a stream of samples."""
