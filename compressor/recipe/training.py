"""The parts of a recipe that train or refit something."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from compressor.recipe.base import Float, PositiveInt, Share, Spec


class FinetuneSpec(Spec):
    """Fine-tune the model on `train` before compressing it."""

    epochs: PositiveInt = 3
    """Passes over the text."""
    lr: Annotated[Float, Field(gt=0)] = 5e-5
    """Learning rate of AdamW at its highest."""
    batch_size: PositiveInt = 32
    """Texts a step."""
    freeze_embeddings: bool = False
    """Keep the embedding tables as they are: faster, and enough for short fine-tuning."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    """Decay of the weights by AdamW; biases and norms have none."""
    warmup: Share = 0.1
    """Share of the steps during which the learning rate rises to `lr`; it then falls linearly to 0."""


class HeadSpec(Spec):
    """The compensation head: a few nodes on the final [CLS] state, folded into the stock classifier."""

    nodes: Annotated[int, Field(ge=2)] = 8
    """Nodes of the head: 4 to 16 are readable."""
    trainer: Literal["gradient", "forward", "readout"] | None = None
    """`gradient`: all nodes at once by an optimiser, from the readout on; `forward`: node by node in closed form (charge
    flow); `readout`: the best linear readout alone, C - 1 nodes for C classes. null: `gradient`, and `readout` for scores and
    for many labels, which have no classes to train for."""
    optimizer: Literal["adamw", "lbfgs"] = "lbfgs"
    """Of the trainer `gradient`."""
    targets: Literal["teacher", "gold"] = "teacher"
    """Learn the full model's probabilities (no labels needed) or the gold labels."""
    epochs: PositiveInt = 200
    """Largest number of passes (adamw) or outer iterations (lbfgs), of which the first only looks at the readout that
    training starts from; early stopping usually ends sooner."""
    lr: Annotated[Float, Field(gt=0)] = 0.01
    """Learning rate of adamw; lbfgs uses a line search."""
    weight_decay: Annotated[Float, Field(ge=0)] = 1e-3
    """L2 penalty on the head's weights, on standardised inputs."""
    patience: PositiveInt = 20
    """Epochs without a better selection loss before training stops."""
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    """`auto` balances gold classes when the rarest has less than half of an even share; teacher targets stay as they are."""


class RefitSpec(Spec):
    """Closed-form refit of feed-forward outputs to the full model's states, on calibration text, without labels."""

    method: Literal["closed_form"] = "closed_form"
    """Ridge regression; there is no other."""
    layers: Literal["gaps", "later"] = "gaps"
    """`gaps`: the layer in front of every gap; `later`: every kept layer from the first gap on."""
    blocks: Literal["ffn", "both"] = "ffn"
    """The output map of the feed-forward block alone, or first that of attention, too: for layers that lost heads."""
    cls_weight: Annotated[Float, Field(ge=1)] = 10.0
    """Weight of the [CLS] rows against those of the other tokens; 1 where the head reads the mean of all tokens."""


class DistillSpec(Spec):
    """Train the whole compressed model towards the full model's states, where closed form is not enough."""

    text: list[Literal["train", "calibration"]] = ["train", "calibration"]
    """The parts of the data to learn from; neither needs labels."""
    epochs: PositiveInt = 3
    """Passes over the text."""
    lr: Annotated[Float, Field(gt=0)] = 1e-4
    """Learning rate of AdamW at its highest."""
    batch_size: PositiveInt = 32
    """Texts a step."""
    temperature: Annotated[Float, Field(gt=0)] = 2.0
    """Softens both sets of probabilities where logits have a weight (Hinton et al. 2015)."""
    logits_weight: Annotated[Float, Field(ge=0)] = 0.0
    """Weight of the divergence from the full model's softened probabilities: the part that a few thousand texts overfit."""
    states_weight: Annotated[Float, Field(ge=0)] = 1.0
    """Weight of the mean squared distance between the states that kept layers should lead to, in units of their variance."""
    attended: bool = False
    """Whether the states behind the attention's norm in each layer are targets too."""
    gold_weight: Annotated[Float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy with gold labels, on the rows that have them."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    """Decay of the weights by AdamW; biases and norms have none."""
    warmup: Share = 0.1
    """Share of the steps during which the learning rate rises to `lr`; it then falls linearly to 0."""
    holdout: Annotated[Float, Field(ge=0, le=0.5)] = 0.1
    """Share of the texts that is never trained on, 1,000 at most: by the KL to the full model there the best weights are kept,
    those from before distillation where the fall may be chance. 0: all texts are trained on, to the end."""
    evaluate_every: Annotated[Float, Field(gt=0, le=1)] = 0.2
    """Epochs between two looks at the texts held out."""
    patience: PositiveInt = 10
    """Looks in a row that may find nothing better than earlier ones, the start left aside, before training ends."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs that have it, fp32 elsewhere."""
    checkpoint_minutes: Annotated[Float, Field(gt=0)] = 5
    """Minutes of training between two checkpoints; a killed run goes on from the last."""
    freeze_embeddings: bool = True
    """Keep the embeddings as the full model has them: faster, and the states start from the same place."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "DistillSpec":
        if not self.text or len(set(self.text)) != len(self.text):
            raise ValueError("text must name at least one part of the data, and none twice")
        if not self.logits_weight + self.states_weight + self.gold_weight:
            raise ValueError("logits_weight, states_weight and gold_weight are all 0, so there is nothing to learn")
        return self


class CompensationSpec(Spec):
    """What makes up for the removed layers."""

    refit: RefitSpec | None = None
    """Refit the kept layers in closed form before the head is trained; `closed_form` for the defaults."""
    distill: DistillSpec | None = None
    """Distil after surgery and refits, before the head; null: no gradients but the head's."""
    head: HeadSpec | None = HeadSpec()

    @field_validator("refit", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:  # noqa: ANN401
        return {"method": value} if isinstance(value, str) else value


class CascadeSpec(Spec):
    """Guarded early exit: easy texts are answered behind an early layer, with a bound on changed predictions."""

    model: Literal["full", "compressed"] = "full"
    """The model whose layers run: the full one, or the compressed one, which then answers what no exit does. For the
    latter half of the calibration text is set aside, since nothing that shaped the model may certify it."""
    exits: Literal["auto"] | list[PositiveInt] = "auto"
    """Layers (of that model, from 1) behind which texts may leave, at most two; `auto`: the lowest expected cost."""
    max_flips: Annotated[Float, Field(gt=0, lt=1)] = 0.01
    """Largest share of predictions that may differ from the full model's."""
    confidence: Annotated[Float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence with which the bound holds on texts like those of the calibration."""
    fit_size: PositiveInt = 10000
    """Largest number of texts (training, then selection) that the exits are fitted on, without their labels."""
    precision: Literal["float32", "int8"] = "float32"
    """Of the layers that run. `int8`: exits, thresholds and certificate are those of the 8-bit files, on the CPU alone."""
    unsure_to_full: Literal["auto"] | bool = "auto"
    """Whether texts that the end is unsure of start again in the full model in float32, which changes none of them. `auto`:
    with `int8`, as far as it pays; true: behind a compressed model in float32 as well."""

    @model_validator(mode="after")
    def _something_behind(self) -> "CascadeSpec":
        if self.unsure_to_full is True and self.model == "full" and self.precision == "float32":
            raise ValueError("unsure_to_full: the full model in float32 is what runs already; leave it out")
        return self

    @field_validator("exits")
    @classmethod
    def _one_or_two(cls, exits: str | list[int]) -> str | list[int]:
        if isinstance(exits, list):
            if not 1 <= len(exits) <= 2 or len(set(exits)) != len(exits):
                raise ValueError("exits names one or two different layers, or is auto")
            return sorted(exits)
        return exits
