"""A finished run on the hub: the model with its card at the root, ONNX files below `onnx/`, one commit."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, validate_repo_id
from requests.exceptions import RequestException

from compressor.errors import UserError, first_line
from compressor.progress import Track, silent
from compressor.release.bundle import prepare
from compressor.release.contents import Contents

REFUSED = {
    401: "the token is not accepted; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; take one with write rights for that owner",
    404: "there is no such owner or repository, or the token may not see it",
    409: "something else of that name is there; choose another name",
}
"""What an answer of the hub means, and what to do about it."""


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be: `url` of the commit, None after a dry run; path -> size in bytes."""

    repository: str
    private: bool
    url: str | None
    files: dict[str, int]
    licence: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dict(vars(self))


def push(
    run_dir: str | Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    every: bool = False,
    texts: bool = False,
    endpoint: str | None = None,
    track: Track = silent,
) -> Pushed:
    """Upload a finished run to `repository` (owner/name) as one commit; with `dry_run` only say what that would be.

    The repository is made where there is none; one that is there keeps its visibility and its other files. `endpoint` is the
    hub's address, HF_ENDPOINT or the public one by default. `every` and `texts` are those of `bundle`. Raises UserError before
    anything is sent for a name that is none, without a token and for a run that is not what its card says, and where the hub
    refuses; a repository then has no half of the files.
    """
    check_name(repository)
    token = None if dry_run else get_token()
    if token is None and not dry_run:
        raise UserError(
            f"--to {repository}: there is no token for the hub; log in with `hf auth login` or set HF_TOKEN "
            "(`--dry-run` needs none)."
        )
    contents = prepare(Path(run_dir), model_at=".", every=every, texts=texts, track=track)
    url = None if dry_run else _upload(contents, repository, private, HfApi(endpoint=endpoint, token=token))
    return Pushed(repository, private, url, contents.sizes(), contents.licence)


def check_name(repository: str) -> None:
    """Raise UserError for what is no name of a repository with its owner."""
    try:
        validate_repo_id(repository)
        wrong = "" if repository.count("/") == 1 else "the owner is missing"
    except HFValidationError as error:
        wrong = first_line(error).rstrip(".")
    if wrong:
        raise UserError(f"--to {repository}: no name of a repository ({wrong}); give owner/name.")


def _upload(contents: Contents, repository: str, private: bool, api: HfApi) -> str:
    where = f"--to {repository}"
    disable_progress_bars()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository, operations=list(_operations(contents)), commit_message=f"{contents.name}, by compressor"
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        why = REFUSED.get(status, f"it says: {first_line(error)}")
        raise UserError(f"{where}: the hub refuses it ({status}); {why}.") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"{where}: HF_HUB_OFFLINE is set, so nothing may be sent; unset it.") from error
    except (RequestException, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{where}: the upload broke off ({first_line(error)[:200]}); run the same command again, nothing half is left."
        ) from error
    return str(done.commit_url)


def _operations(contents: Contents) -> Iterable[CommitOperationAdd]:
    for name in sorted(contents.files):
        content = contents.files[name]
        yield CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
