"""What the parts of a model that may go save of its cost, from its configuration alone."""

import numpy as np

from compressor.model.families import family_of, layer_kinds, part_sizes
from compressor.model.load import ModelSource
from compressor.model.sublayers import any_shape
from compressor.recipe.compression import SelectionSpec
from compressor.selection.budget.units import flops_savings, part_names


def source_savings(spec: SelectionSpec, source: ModelSource) -> dict[tuple[int, str], np.ndarray]:
    """Return what the parts that may go save of the FLOPs of a model, whole layers only where any of them may go."""
    parts, width_key = part_names(spec, *part_sizes(source.config)), family_of(source.config["model_type"]).width_key
    kinds = layer_kinds(source.config)
    if kinds is not None and None not in kinds:
        parts = [part for part in parts if part]
    return flops_savings(any_shape(source.config), source.config[width_key], parts)
