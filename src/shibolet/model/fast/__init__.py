"""Passes over memory and the loss, fused: Triton on a GPU, plain torch elsewhere."""
