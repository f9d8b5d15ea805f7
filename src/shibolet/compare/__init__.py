"""Stage: two rounds, or any systems, scored on the same utterances; which is better, by how much, where, is it kept."""

from shibolet.compare.config import CompareConfig
from shibolet.compare.keep import compare
from shibolet.compare.pairs import NOT_SHOWN, compare_pair, compare_systems

__all__ = ["NOT_SHOWN", "CompareConfig", "compare", "compare_pair", "compare_systems"]
