"""The only room that knows Qwen3-ASR; `family.py` is what the rest sees of it."""
