"""Stage: two candidates, or any systems, scored on the same utterances; which is better, by how much, is it kept."""

from shibolet.compare.config import CompareConfig, PartsConfig
from shibolet.compare.keep import compare
from shibolet.compare.pairs import compare_pair, compare_systems

__all__ = ["CompareConfig", "PartsConfig", "compare", "compare_pair", "compare_systems"]
