"""Numerical methods as pure functions: tensors in, tensors out."""
