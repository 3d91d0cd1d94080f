"""Where a model directory is: a path, an installed package, a repository of the hub."""

from importlib.util import find_spec
from pathlib import Path

from compressor.errors import UserError, first_line

FETCHED = ["*.json", "*.txt", "*.model", "model*.safetensors", "pytorch_model*.bin", "README.md"]


def local_model(path: str, field: str = "model.path") -> Path | None:
    """Return the directory behind a path or a `package:NAME`, None for what may be a hub id; errors of `find_model`."""
    if path.startswith("package:"):
        return _in_package(path.removeprefix("package:"))
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory.resolve()
    if directory.exists():
        raise UserError(f"{field} {path!r}: this is a file; give the directory that holds config.json and the weights.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{field} {path!r}: no such directory (a hub id has the form owner/name or name).")
    return None


def _in_package(name: str) -> Path:
    """Return the `model` folder of an installed package; the package itself is not imported."""
    spec = find_spec(name.replace("-", "_")) if name.replace("-", "_").isidentifier() else None
    roots = list(spec.submodule_search_locations or []) if spec else []
    if not roots:
        raise UserError(f"model.path 'package:{name}': the package is not installed; run `pip install {name}`.")
    directory = Path(roots[0]) / "model"
    if not directory.is_dir():
        raise UserError(f"model.path 'package:{name}': the package holds no model folder.")
    return directory


def fetch(repository: str, revision: str | None) -> Path:
    """Return the files of a hub repository that are needed; raises UserError where the hub cannot be reached or refuses it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from requests.exceptions import RequestException

    remedy = "check the name, or download it elsewhere and set --set model.path=<directory>"
    unreachable = "the hub cannot be reached; set --set model.path=<directory of the model>"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FETCHED))
    except LocalEntryNotFoundError as error:
        raise UserError(f"model.path {repository!r}: no such directory here, and {unreachable}.") from error
    except (HfHubHTTPError, HFValidationError) as error:  # before RequestException, of which they are a kind
        raise UserError(f"model.path {repository!r}: the hub refuses it ({first_line(error)}); {remedy}.") from error
    except RequestException as error:
        raise UserError(f"model.path {repository!r}: no such directory here, and {unreachable}.") from error
