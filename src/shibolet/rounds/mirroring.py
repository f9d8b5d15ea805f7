"""Sending a run folder to its mirror while the round goes on: after each stage, every half minute, and at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread

from shibolet.errors import RecipeError, ShiboletError, StoreError, UploadError
from shibolet.records import store
from shibolet.records.mirror import STATE, Mirror, mirror_of
from shibolet.records.runfolder import RunFolder
from shibolet.records.shared_files import SharedFiles
from shibolet.records.store import DRIVERS, is_url

EVERY_S = 30.0  # what was heard, and checkpoints, which other processes write: no more than that of them is lost
_EVIDENCE = "heard"  # the folder beside a mirror's objects to which jobs of an array add what they hear
Tell = Callable[[str], None]


@contextmanager
def mirrored(folder: Path, url: str | None, tell: Tell) -> Iterator[Callable[[], None]]:
    """Have the folder's mirror follow it; what is given is called when something is to be sent.

    Without a `url` the folder keeps the mirror that it has; where it has none, nothing happens. An empty folder is
    first fetched, and every folder gets what jobs of an array have heard. UploadError where all went well but for the
    mirror; other errors as of `Mirror.open`.
    """
    if (place := url or mirror_of(folder)) is None:
        yield lambda: None
        return
    require_store(place)
    mirror = Mirror(folder, place)
    try:
        tell(mirror.open())
        if num := _evidence(folder, place).fetch():
            tell(f"mirror: fetched {num:,} more files of what jobs of an array heard")
    except StoreError as error:
        if url is None:
            raise StoreError(f"{error}. To work without the mirror, delete {folder / STATE}") from error
        raise
    with _sent(mirror, f"the run folder {folder} is whole on this machine, but not in {place}", tell) as send:
        yield send


@contextmanager
def evidence_shared(folder: Path, url: str | None, tell: Tell) -> Iterator[None]:
    """Have what this job of an array hears in the store too, beside the mirror, and what others heard here.

    Nothing else of the folder is sent: jobs of an array work side by side, and the mirror has one writer. Without a
    `url` nothing happens. UploadError where all went well but for the store, StoreError.
    """
    if url is None:
        yield
        return
    require_store(url)
    store.require_writable(url)
    Mirror(folder, url).claim()
    evidence = _evidence(folder, url)
    num = evidence.fetch()
    tell(f"mirror: {num:,} files of evidence fetched; {url}/{_EVIDENCE} has those of all jobs")
    with _sent(evidence, f"what was heard is in {folder} on this machine, but not in {url}", tell):
        yield


def _evidence(folder: Path, url: str) -> SharedFiles:
    return SharedFiles(RunFolder(folder).audit() / "heard", f"{url.rstrip('/')}/{_EVIDENCE}")


@contextmanager
def _sent(what: Mirror | SharedFiles, lacking: str, tell: Tell) -> Iterator[Callable[[], None]]:
    """Send meanwhile and at the end; UploadError, `lacking` and why, where only that fails."""
    sender = _Sender(what, tell)
    try:
        yield sender.wake
    except KeyboardInterrupt:  # whoever ends it by hand does not wait for a network
        sender.stop()
        raise
    except BaseException:
        if said := sender.finish():
            tell(f"mirror: {said}")
        raise
    if said := sender.finish():
        raise UploadError(f"{lacking}: {said}. The same command sends the rest")


def require_store(url: str) -> None:
    """RecipeError for what is no folder of a store."""
    if not is_url(url):
        schemes = " or ".join(f"{scheme}://" for scheme in DRIVERS)
        raise RecipeError(f"--mirror {url}: write a folder of a store, such as s3://bucket/runs/mine ({schemes})")


class _Sender:
    """A thread that sends: a stage that goes on does not wait for it."""

    def __init__(self, what: Mirror | SharedFiles, tell: Tell) -> None:
        self._what, self._tell = what, tell
        self._asked, self._is_over = False, False
        self._changed = Condition()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something is done that should not be lost."""
        with self._changed:
            self._asked = True
            self._changed.notify()

    def stop(self) -> None:
        """No more is begun."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def finish(self) -> str:
        """Send what is left, when the thread is done; why it could not be, or nothing."""
        self.stop()
        self._thread.join()
        return self._send()

    def _run(self) -> None:
        told = ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._is_over, EVERY_S)
                if self._is_over:
                    return
                self._asked = False
            if (said := self._send()) and said != told:
                self._tell(f"mirror: {said}. The round goes on, and the mirror is tried again")
            told = said

    def _send(self) -> str:
        """Why the store has not the folder as it is now, or nothing."""
        try:
            self._what.send()
        except (ShiboletError, OSError) as error:
            return str(error)
        return ""
