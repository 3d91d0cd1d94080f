"""The table of trainers of the compensation head."""

from collections.abc import Callable

from compressor.compensation.heads.chargeflow import fit_charge_flow
from compressor.compensation.heads.head import HeadFit, fit_head
from compressor.compensation.heads.linear import fit_readout
from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.errors import UserError
from compressor.model.families import Family
from compressor.recipe.training import HeadSpec

TRAINERS: dict[str, Callable[..., HeadFit]] = {"gradient": fit_head, "forward": fit_charge_flow, "readout": fit_readout}
"""Trainer name -> function that fits a head; keys = HeadSpec.trainer."""


def trainer_of(spec: HeadSpec, family: Family, kind: str = SINGLE_LABEL) -> str:
    """Return the trainer of a recipe's head: `gradient` where it is left open, and the readout for tasks without classes.

    Where only the stock head's second map is fitted (`head_states`) it is the readout as well, since the gradients of a linear
    map lead to that; `forward`, which builds nodes, is refused by `check_trainer`.
    """
    return "readout" if family.head_norm or kind != SINGLE_LABEL else spec.trainer or "gradient"


def check_trainer(spec: HeadSpec, family: Family, model_type: str) -> None:
    """Raise UserError for a trainer whose nodes have no place in the heads of this family."""
    if family.head_norm and spec.trainer == "forward":
        raise UserError(
            f"compensation.head.trainer: forward builds nodes one by one, but the head of a {model_type} model has a norm "
            "over all of its nodes, behind which a few would not stay what they are; set it to readout."
        )
