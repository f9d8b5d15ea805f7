"""What a training can minimise, one module each; `registry` has those that a recipe can name."""
