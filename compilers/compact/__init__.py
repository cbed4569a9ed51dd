"""Compact: a training-free compiler that keeps the context's own keys and refits their values."""
