"""Passes over memory and the loss, fused: Triton on a GPU, plain torch elsewhere."""

LOSS_CHUNK_POSITIONS = 2048  # logits of 2,048 positions are 0.6 GB in bf16 at the real vocabulary of 151,936
