"""What the hub's datasets raise, as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from compressor.errors import UserError, first_line


@contextmanager
def reading_hub(what: str, remedy: str) -> Iterator[None]:
    """Raise what loading a dataset of the hub raises as UserError: `what` cannot be read, why, and the `remedy`."""
    import datasets  # seconds, which only its users pay

    # no network, offline mode and unknown names are OSErrors, unknown configurations and splits ValueErrors, repositories
    # that hold a script RuntimeErrors
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{what} cannot be read from the hub ({first_line(error).rstrip('.')}); {remedy}.") from error
