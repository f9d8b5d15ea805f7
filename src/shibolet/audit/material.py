"""What an audit listens to: the clips of its sample, and changed copies of some of them for its self-test."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from shibolet.audit import selftest
from shibolet.audit.clip import Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig
from shibolet.audit.damage import Original, Pool, copies
from shibolet.audit.sampling import Sample, draw_sample
from shibolet.records.spilled import SpilledList
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

MIN_HEARD = 0.9  # of the copies with changed audio


@dataclass(frozen=True)
class Material:
    """The utterances of a sample, as clips where there is a word to check, and the self-test's copies by kind."""

    sample: Sample
    utterances: Sequence[Utterance]
    clips: Sequence[Clip]
    wordless: dict[str, Evidence]  # by id, of texts without a word that could be checked
    tested: list[Original]
    domains: dict[str, str]  # by id, of the tested clips, and of the first utterance of each domain
    copies: dict[str, list[Clip]]
    notes: tuple[str, ...] = ()  # sentences

    def heard_by(self, can_hear: Callable[[Clip], bool]) -> "Material":
        """Without the copies that a recogniser cannot hear: a file of hypotheses knows no audio but its own.

        It may have the audio of copies too (`export_copies`). Where it lacks more than a few, none of them counts: a
        self-test on those that somebody chose to transcribe would show nothing.
        """
        changed = [copy for own in self.copies.values() for copy in own if copy.change_audio]
        known, notes = {copy.key for copy in changed if can_hear(copy)}, ()
        if known and len(known) < MIN_HEARD * len(changed):
            lacking = Counter(copy.key.partition("/")[0] for copy in changed if copy.key not in known)
            notes = (
                f"The file of hypotheses has {len(known):,} of {len(changed):,} copies, under {MIN_HEARD:.0%}, so none "
                f"counts; missing: {', '.join(f'{kind} {num:,}' for kind, num in lacking.items())}. Where a system "
                "heard nothing, its line has an empty hypothesis.",
            )
            known = set()
        kept = {
            kind: [copy for copy in own if not copy.change_audio or copy.key in known]
            for kind, own in self.copies.items()
        }
        return replace(self, copies=kept, notes=notes)

    @property
    def has_changed_audio(self) -> bool:
        return any(copy.change_audio for own in self.copies.values() for copy in own)

    @cached_property
    def everything(self) -> Sequence[Clip]:
        return SpilledList.joined([self.clips, *self.copies.values()])


def material_of(utterances: Sequence[Utterance], config: AuditConfig, language: str) -> Material:
    """The material of an audit; utterances have their domains.

    The self-test has the first clips of the sample, so that hearing more changes no verdict on what was heard.
    """
    sample, rules = draw_sample(utterances, config.sample), get_language(language)
    chosen = SpilledList(utterances[place] for place in sorted(sample.in_order))
    clips, wordless = clips_of(chosen, language)
    drawn = ((utterances[place], clip_of(utterances[place], rules)) for place in sample.in_order)
    tested = islice(((u, clip) for u, clip in drawn if clip), config.selftest.num_clips)
    originals = [Original(clip=clip, recording=u.cluster, speaker=u.speaker) for u, clip in tested]
    made = copies(selftest.ROWS, originals, Pool(originals, language), config.sample.seed)
    place = {original.clip.key: i for i, original in enumerate(originals)}
    for kind, own in made.items():
        made[kind] = [c for c in own if selftest.has_copy(kind, place[c.key.removeprefix(f"{kind}/")], len(place))]
    return Material(sample, chosen, clips, wordless, originals, _domains(chosen, place), made)


def _domains(utterances: Iterable[Utterance], tested: Container[str]) -> dict[str, str]:
    """By id the domain of each tested utterance, and of the first one of each domain, in their order."""
    seen: set[str | None] = set()
    found = {}
    for u in utterances:
        if u.id in tested or u.domain not in seen:
            seen.add(u.domain)
            found[u.id] = u.domain
    return found


def clips_of(utterances: Iterable[Utterance], language: str) -> tuple[SpilledList[Clip], dict[str, Evidence]]:
    """What can be listened to, and the evidence on texts without a word that could be checked."""
    rules, clips, wordless = get_language(language), SpilledList(), {}
    for u in utterances:
        if clip := clip_of(u, rules):
            clips.append(clip)
        else:
            wordless[u.id] = Evidence(key=u.id, failure="no_words", detail=f"no {rules.name} word in '{u.text[:60]}'")
    return clips, wordless
