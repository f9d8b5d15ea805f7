"""The only room that knows Qwen3-ASR; `outline.py` and `family.py` are what the rest sees of it."""
