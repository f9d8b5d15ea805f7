"""What can go wrong, and the exit code each kind ends a command with."""

import difflib
from collections.abc import Sequence


class ShiboletError(Exception):
    """Something the user can mend; the message says what, where and what to do."""

    exit_code = 1


class RecipeError(ShiboletError):
    """The recipe or the command line asks for something that does not exist or cannot be."""

    exit_code = 2


class DataError(ShiboletError):
    """Data that cannot be read or used."""

    exit_code = 3


class StoreError(DataError):
    """A store of objects that cannot be reached, read or written; never the fault of a recording in it."""


class AudioError(DataError):
    """One recording that cannot be decoded; `reason` is the ledger's rule, `detail` the message without the place."""

    def __init__(self, message: str, reason: str = "undecodable", detail: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.detail = reason, message if detail is None else detail


class ModelError(ShiboletError):
    """A model folder that cannot be read or is not what it was taken for."""

    exit_code = 3


class ServerError(ShiboletError):
    """A transcription server that cannot be reached or refuses."""

    exit_code = 3


class CheckpointError(ShiboletError):
    """No checkpoint could be used."""

    exit_code = 50


class DiskError(ShiboletError):
    """Something could not be written; what was there before is intact."""

    exit_code = 3


class OutOfMemory(ShiboletError):
    """The accelerator's memory does not hold a step, whatever the recipe allows to give up."""

    exit_code = 3


class ProcessLost(ShiboletError):
    """A process that decodes or hears ended again and again: the machine's memory, or a defect of a library."""

    exit_code = 3


class RankLost(ShiboletError):
    """A process or machine of a training was ended from outside, or crashed; the same command continues."""

    exit_code = 76


class Diverged(ShiboletError):
    """The training lost its weights again and again, and was stopped."""

    exit_code = 3


class UploadError(ShiboletError):
    """What was made is whole on this machine, but not on the Hub or in the store; the message says how to go on."""

    exit_code = 60


class Preempted(ShiboletError):
    """A signal ended the run at a step boundary with a checkpoint; the same command continues it."""

    exit_code = 75


class Rejected(ShiboletError):
    """The comparison says reject, and what was asked for needs a round that is kept."""

    exit_code = 40


EXIT_CAUTION = 10
EXIT_STOP = 20
EXIT_INVALID = 30
EXIT_REJECT = Rejected.exit_code
EXIT_INTERRUPTED = 130  # as shells say it of Ctrl-C


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest of those that are, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
