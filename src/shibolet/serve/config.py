"""What a transcription server is told at its start, and what it tells a client that it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client may ask of the server; more is refused in a sentence."""

    max_upload_mib: float = 100.0  # of a whole request
    max_audio_s: float = 3600.0  # of a recording, as decoded
    max_requests: int = 64  # in hand at a time, whether uploading, waiting or being decoded
    max_waiting_s: float = 7200.0  # of decoded audio that waits for the model: 64 KB a second
    upload_s: float = 60.0  # for the last byte of a request to come
    max_piece_s: float = 30.0  # between two cuts of a longer recording, as `transcribe` cuts it
    max_prompt_chars: int = 2000

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mib * (1 << 20))

    @property
    def decode_s(self) -> float:
        """For a worker to decode an upload; a tenth of real time is slow."""
        return 30.0 + self.max_audio_s / 10


class Refused(Exception):
    """A request that is not answered: an HTTP status, one sentence, and in OpenAI's words the field and the reason."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})


def is_full(why: str) -> Refused:
    """The server has as much as it takes; clients such as OpenAI's wait and ask again by themselves."""
    return Refused(503, f"the server is full: {why}; ask again later", code="server_full", headers={"Retry-After": "2"})
