"""Texts that machines wrote: which of them may train, by how far two hearers agree."""
