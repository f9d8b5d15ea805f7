"""The documents of a run folder, a module for each stage's; `docs/schemas/` has their JSON schemas."""
