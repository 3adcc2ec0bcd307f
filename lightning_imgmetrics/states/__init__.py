"""Mergeable summaries of a stream of rows; tensors in, tensors out, no communication."""
