"""A folder to a repository of the Hub: what is there already is not sent again, so the same call goes on."""

import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from shibolet.errors import UploadError
from shibolet.records.retry import retried

ATTEMPTS = 4
_FOR_GOOD = {400, 401, 403, 404, 409, 422}  # asking again gives the same answer
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]  # shards of an earlier export must not lie beside ours


def upload_folder(
    folder: Path,
    to: str,
    *,
    private: bool,
    message: str,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Make the repository `to` where it is not there, put the folder's files into it, and return the commit's page.

    Errors of the network are retried; UploadError when it stays out of reach or the Hub refuses.
    """
    if get_token() is None:
        raise UploadError(f"'{to}' cannot be written without a token: run 'hf auth login' or set HF_TOKEN")
    api = HfApi()

    def send() -> str:
        api.create_repo(to, repo_type="model", private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=to, repo_type="model", folder_path=folder, commit_message=message, delete_patterns=_REPLACED
        ).commit_url

    try:
        return retried(send, lambda error: _status(error) not in _FOR_GOOD, attempts=ATTEMPTS, wait=wait)
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last two wrap those of large files
        raise UploadError(f"the upload to '{to}' did not finish: {_sentence(error)}") from error


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
