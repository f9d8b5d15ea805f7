"""Learning rates by part: trials that branch from one checkpoint, successive halving, and the proof on other groups."""
