"""Stage: two candidates, or any systems, scored on the same utterances; which is better, by how much, is it kept."""

from shibolet.compare.config import CompareConfig
from shibolet.compare.keep import compare
from shibolet.compare.pairs import compare_pair, compare_systems

__all__ = ["CompareConfig", "compare", "compare_pair", "compare_systems"]
