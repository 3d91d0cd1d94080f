"""What every part of a recipe is built from."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# YAML 1.1 reads `5e-5` as text, so floats are converted; everything else must have its own type already.
Float = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=False, ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)]
"""What a folder is called after: no way out of the one that it lies in."""


class Spec(BaseModel):
    """Base of every part of a recipe: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def named_once(what: str) -> AfterValidator:
    """Return the check that a list holds each `what` once; a word in place of the list passes."""

    def check(values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, list) and len(set(values)) != len(values):
            raise ValueError(f"each {what} may be named once")
        return values

    return AfterValidator(check)
