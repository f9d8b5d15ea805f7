"""The only room that knows how a Whisper trains; `outline.py` and `family.py` are what the rest sees of it."""
