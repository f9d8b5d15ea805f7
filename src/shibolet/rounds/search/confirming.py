"""The best trial against the recipe's own on the part of dev that chose nothing: other recordings and speakers."""

from collections.abc import Sequence
from dataclasses import dataclass

from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.dev import DevRow, transcribe_rows
from shibolet.records.documents.search import Confirmation, LossDifference
from shibolet.records.files import hash_json
from shibolet.records.groups import connected, count_groups, halves, keys_of
from shibolet.rounds.search.trials import SearchJob, dev_examples
from shibolet.scoring.intervals import Estimate, difference_interval, ratio_intervals
from shibolet.scoring.rows import groups_of

MOST_CHOOSING = 200  # utterances on which losses are measured: after each rung, so they are paid for often


@dataclass(frozen=True, slots=True)
class DevParts:
    """Dev utterances that choose among trials and those that confirm the choice; no group is in both."""

    choosing: tuple[DevRow, ...]
    confirming: tuple[DevRow, ...]

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each choosing utterance, by its id: some of them may be none that a loss can be measured on."""
        return dict(zip((row.utterance.id for row in self.choosing), _groups(self.choosing), strict=True))


def divide_dev(rows: Sequence[DevRow], seed: int) -> DevParts:
    """Two parts of about equal length, by whole groups in an order that the seed decides; the first one chooses."""
    parts: tuple[list[DevRow], list[DevRow]] = ([], [])
    for row, part in zip(rows, halves(_groups(rows), [row.utterance.duration_s for row in rows], seed), strict=True):
        parts[part].append(row)
    taken = set(sorted((row.utterance.id for row in parts[0]), key=lambda id: hash_json([seed, id]))[:MOST_CHOOSING])
    return DevParts(tuple(row for row in parts[0] if row.utterance.id in taken), tuple(parts[1]))


def confirm(own: SearchJob, found: SearchJob, rows: Sequence[DevRow], config: EvaluateConfig) -> Confirmation:
    """WER of both as they are at the end of their jobs, paired by utterance, and whether dev says what is heard."""
    from shibolet.train.checkpoint import CheckpointStore
    from shibolet.train.stage import trained_to

    control, scored = None, []
    for job in (own, found):
        store = CheckpointStore(job.out_dir / "checkpoints")
        loaded = trained_to(job.base, job.train, job.seed, store, store.steps()[-1])
        control = control or hears_its_texts(loaded, job, rows)
        scored.append(transcribe_rows(loaded, rows, job.language, config, job.styles))
        del loaded
    words = [[row.words for row in part] for part in scored]
    change = difference_interval(*words, groups_of(scored[0]))
    rates = [sum(one.errors for one in part) / max(1, sum(one.reference_length for one in part)) for part in words]
    return Confirmation(
        own_wer_pct=100 * rates[0],
        found_wer_pct=100 * rates[1],
        points=None if change.value is None else 100 * change.value,
        interval_points=_ends(change, 100),
        counted=count_groups(scored[0], groups_of(scored[0])).words,
        control=control,
    )


def hears_its_texts(loaded, job: SearchJob, rows: Sequence[DevRow]) -> LossDifference:
    """The loss a label of each text with its own audio, minus that with the audio of another utterance.

    Where texts were exchanged, neither audio is theirs: then no WER on them says which model hears better, and a model
    that writes less would win.
    """
    from shibolet.train.label_loss import label_losses, with_audio_of_next

    ids = [row.utterance.id for row in rows]
    examples = dev_examples(loaded, job, sorted(ids, key=hash_json))
    right = label_losses(loaded, examples, job.language)
    wrong = label_losses(loaded, with_audio_of_next(examples), job.language)
    group_of = dict(zip(ids, _groups(rows), strict=True))
    return loss_difference(right, wrong, [group_of[one.id] for one in right])


def loss_difference(first: Sequence, second: Sequence, groups: Sequence[str]) -> LossDifference:
    """Loss a label of the first minus that of the second, of the same labels, with its interval over groups."""
    import numpy as np

    tops = np.array([one.loss - two.loss for one, two in zip(first, second, strict=True)])
    (found,) = ratio_intervals(tops[:, None], np.array([float(one.labels) for one in first])[:, None], groups)
    return LossDifference(difference=found.value, interval=_ends(found))


def is_admitted(confirmation: Confirmation | None) -> tuple[bool, str]:
    """Whether a gain is shown, and why not."""
    if confirmation is None:
        return False, "dev has too few recordings and speakers to choose on some and confirm on others"
    control, ends = confirmation.control.interval, confirmation.interval_points
    if control is None or ends is None:
        return False, f"dev has too few recordings and speakers for an interval ({confirmation.counted})"
    if control[1] >= 0:
        return False, "the model finds the dev texts no likelier with their own audio than with other audio"
    if ends[1] >= 0:
        return False, f"its interval is {ends[0]:+.2f} to {ends[1]:+.2f}"
    return True, ""


def _groups(rows: Sequence[DevRow]) -> list[str]:
    return connected([keys_of(row.utterance.id, row.utterance.recording, row.utterance.speaker) for row in rows])


def _ends(found: Estimate, times: float = 1.0) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (times * found.low, times * found.high)
