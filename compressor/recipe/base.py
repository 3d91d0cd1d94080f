"""What every part of a recipe is built from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# YAML 1.1 reads `5e-5` as text, so floats are converted; everything else must have its own type already.
Float = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=False, ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Spec(BaseModel):
    """Base of every part of a recipe: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
