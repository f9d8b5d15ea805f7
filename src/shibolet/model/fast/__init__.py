"""Passes over memory and the loss, fused: Triton on a GPU, plain torch elsewhere."""

LOSS_CHUNK_POSITIONS = 2048  # logits of 2,048 positions are 0.6 GB in bf16 at the real vocabulary of 151,936


def loss_bytes(labels: int, dim: int, vocab: int, width: int, head_trains: bool) -> tuple[int, int]:
    """Bytes while `summed_cross_entropy` computes: its gradients, which stay, and a chunk of logits, which goes."""
    num_chunks = max(1, -(-labels // LOSS_CHUNK_POSITIONS))
    stays = 2 * labels * dim + (dim * vocab if head_trains else 0)
    return stays * width, -(-labels // num_chunks) * vocab * width
