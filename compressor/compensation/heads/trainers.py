"""The table of trainers of the compensation head."""

from collections.abc import Callable

from compressor.compensation.heads.chargeflow import fit_charge_flow
from compressor.compensation.heads.head import HeadFit, fit_head
from compressor.compensation.heads.linear import fit_readout

TRAINERS: dict[str, Callable[..., HeadFit]] = {"gradient": fit_head, "forward": fit_charge_flow, "readout": fit_readout}
"""Trainer name -> function that fits a head; keys = HeadSpec.trainer."""
