"""Protects the strata: the specification's rules at their edges, in their order."""

import pytest

from shibolet.audit.domains import DEFAULT_DOMAIN_RULES, DomainRule, assign_domain
from shibolet.errors import RecipeError
from shibolet.records.utterance import AudioRef, Utterance


def utterance(source="crowd", duration_s=5.0, num_chars=20, domain=None) -> Utterance:
    return Utterance(
        id="u1",
        audio=AudioRef(path="u1.wav"),
        text="א" * num_chars,
        duration_s=duration_s,
        source=source,
        domain=domain,
    )


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        (utterance("ivrit-ai/eval-WhatsApp", duration_s=60), "whatsapp_noisy"),
        (utterance("imvladikon/hebrew_speech_kan", duration_s=60), "kan_clean"),
        (utterance("upai-inc/SASPEECH", duration_s=12), "kan_clean"),
        (utterance("broadcast-2024", duration_s=12), "kan_clean"),
        (utterance("kan-whatsapp"), "whatsapp_noisy"),
        (utterance(duration_s=20.0, num_chars=200), "whatsapp_noisy"),
        (utterance(duration_s=20.01, num_chars=200), "long_tail"),
        (utterance(duration_s=9.99, num_chars=31), "kan_clean"),
        (utterance(duration_s=9.99, num_chars=30), "whatsapp_noisy"),
        (utterance(duration_s=10.0, num_chars=31), "whatsapp_noisy"),
        (utterance("whatsapp", domain="phone"), "phone"),
    ],
)
def test_default_rules(given, domain):
    assert assign_domain(given, DEFAULT_DOMAIN_RULES) == domain


def test_no_rule_matches():
    with pytest.raises(RecipeError, match=r"'u1' of 'crowd' \(5.0 s, 20 characters\) matches none of 1 domain rules"):
        assign_domain(utterance(), [DomainRule(domain="x", min_duration_s=5.0)])


def test_what_the_data_say_is_not_overruled():
    assert assign_domain(utterance(domain="phone"), DEFAULT_DOMAIN_RULES) == "phone"
