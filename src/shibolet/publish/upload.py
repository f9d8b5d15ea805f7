"""A folder to a repository of the Hub: what is there already is not sent again, so the same call goes on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from shibolet.errors import UploadError

ATTEMPTS, FIRST_WAIT_S = 4, 5.0
_FOR_GOOD = {400, 401, 403, 404, 409, 422}  # asking again gives the same answer
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]  # shards of an earlier export must not lie beside ours


def upload_folder(
    folder: Path, to: str, *, kind: Literal["model", "dataset"] = "model", private: bool, message: str,
    wait: Callable[[float], None] = time.sleep,
) -> str:  # fmt: skip
    """Make the repository `to` where it is not there, put the folder's files into it, and return the commit's page.

    Errors of the network are retried; UploadError when it stays out of reach or the Hub refuses.
    """
    if get_token() is None:
        raise UploadError(f"'{to}' cannot be written without a token: run 'hf auth login' or set HF_TOKEN")
    api = HfApi()
    for attempt in range(ATTEMPTS):
        try:
            api.create_repo(to, repo_type=kind, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=to, repo_type=kind, folder_path=folder, commit_message=message, delete_patterns=_REPLACED
            )
            return commit.commit_url
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last two wrap those of uploads
            reason = _sentence(error)
            if _status(error) in _FOR_GOOD or attempt == ATTEMPTS - 1:
                raise UploadError(f"the upload to '{to}' did not finish: {reason}") from error
            wait(FIRST_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        error = error.__cause__
    return None


def _sentence(error: Exception) -> str:
    cause = error.__cause__ or error
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {line}" if line else type(cause).__name__
