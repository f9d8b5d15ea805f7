"""Which domain an utterance belongs to, by rules that are data in the recipe; domains are the strata of the audit."""

from collections.abc import Sequence

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.records.utterance import Utterance


class DomainRule(Config):
    """Conditions that must all hold for an utterance to be of a domain; a rule without conditions takes every one."""

    domain: str  # the domain that the rule gives
    name_contains: tuple[str, ...] = ()  # the source's name contains one of these, in any case; empty: any name
    min_duration_s: float | None = None  # the utterance is longer than this many seconds; null: any duration
    max_duration_s: float | None = None  # the utterance is shorter than this many seconds; null: any duration
    min_chars: int | None = None  # the text has more characters than this; null: any text

    def matches(self, utterance: Utterance) -> bool:
        name = utterance.source.lower()
        return (
            (not self.name_contains or any(part.lower() in name for part in self.name_contains))
            and (self.min_duration_s is None or utterance.duration_s > self.min_duration_s)
            and (self.max_duration_s is None or utterance.duration_s < self.max_duration_s)
            and (self.min_chars is None or len(utterance.text) > self.min_chars)
        )


# The first three are the specification's; it leaves the fallback open, and the last two are ours.
DEFAULT_DOMAIN_RULES = (
    DomainRule(domain="whatsapp_noisy", name_contains=("whatsapp",)),
    DomainRule(domain="kan_clean", name_contains=("kan", "saspeech", "broadcast")),
    DomainRule(domain="long_tail", min_duration_s=20.0),
    DomainRule(domain="kan_clean", max_duration_s=10.0, min_chars=30),
    DomainRule(domain="whatsapp_noisy"),
)


def assign_domain(utterance: Utterance, rules: Sequence[DomainRule]) -> str:
    """The utterance's own domain, else that of the first rule that matches; RecipeError when none does."""
    if utterance.domain is not None:
        return utterance.domain
    for rule in rules:
        if rule.matches(utterance):
            return rule.domain
    raise RecipeError(
        f"utterance '{utterance.id}' of '{utterance.source}' ({utterance.duration_s:.1f} s, {len(utterance.text)} "
        f"characters) matches none of {len(rules)} domain rules; end the rules with one that has no conditions"
    )
