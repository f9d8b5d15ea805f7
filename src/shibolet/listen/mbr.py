"""Minimum Bayes risk: of the texts of a clip the one with the fewest word errors to expect, not the likeliest one.

Kumar and Byrne 2004; what is true is not known, and samples of the model stand for it (Eikema and Aziz 2020).
"""

from collections import Counter
from collections.abc import Sequence

from shibolet.speech.text import Language

TEMPERATURE = 0.7  # of samples, where nobody says another


def least_risk(greedy: str, samples: Sequence[str], language: Language) -> int:
    """Which text has the least expected word error rate: 0 is the greedy one, 1 and on are samples.

    Each sample counts as the reference once; texts are compared as they are scored. Errors are added up and not divided
    by a sample's length: what divides the errors of a set is the same whichever text is chosen. Of equals the greedy
    text is taken, else the first.
    """
    from rapidfuzz.distance import Levenshtein

    words = [tuple(language.to_scoring(text).split()) for text in (greedy, *samples)]
    references = Counter(words[1:])
    errors = {
        text: sum(times * Levenshtein.distance(reference, text) for reference, times in references.items())
        for text in set(words)
    }
    return min(range(len(words)), key=lambda place: (errors[words[place]], place))
