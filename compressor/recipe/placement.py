"""The recipe of a placement experiment: which layers get a feed-forward block, trained from scratch, all else equal."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compressor.recipe.base import Float, Name, PositiveInt, Seed, Share, Spec, named_once
from compressor.recipe.data import CalibrationSpec, DataSpec, SelectionSplitSpec
from compressor.recipe.training import FinetuneSpec

Place = Literal["first", "middle", "last"]


class TextSpec(Spec):
    """Text to pre-train on: files, or a data set of the hub. Every line or row is one text."""

    files: str | list[str] | None = None
    """One or several files: txt (a text a line), csv, tsv, jsonl or parquet."""
    column: str | list[str] = "text"
    """Column or columns of the files that are no txt, or of the hub's data set; each holds texts of its own."""
    hub: str | None = None
    """Hub id of a data set, in place of files."""
    config: str | None = None
    """Configuration of the hub's data set."""
    split: str = "train"
    """Split of the hub's data set."""
    held_out: Annotated[Share, Field(gt=0, lt=1)] = 0.05
    """Share of the texts that the masked-language loss is measured on; equal texts are on the same side."""

    @property
    def paths(self) -> list[str]:
        """The files as a list, whichever way they were written."""
        return [self.files] if isinstance(self.files, str) else list(self.files or [])

    @property
    def columns(self) -> list[str]:
        """The columns as a list, whichever way they were written."""
        return [self.column] if isinstance(self.column, str) else list(self.column)

    @model_validator(mode="after")
    def _files_or_hub(self) -> "TextSpec":
        if bool(self.paths) == bool(self.hub):
            raise ValueError(
                "no text: give either files or hub" if not self.hub else "give either files or hub, not both"
            )
        return self


class EncoderSpec(Spec):
    """The uniform BERT encoder whose feed-forward parameters are moved between layers."""

    layers: PositiveInt = 12
    hidden: PositiveInt = 256
    heads: PositiveInt = 4
    ffn: PositiveInt | None = None
    """Width of every feed-forward block of the uniform model; null: four times `hidden`."""
    vocab_size: Annotated[int, Field(ge=64)] = 8000
    """Tokens of the WordPiece vocabulary that is trained on the text, or of the one that `tokenizer` names."""
    tokenizer: str | None = None
    """Directory of a tokenizer; null: one is trained on the training share of the text."""
    positions: Annotated[int, Field(ge=4)] = 128
    """Most tokens of an input, in pre-training and in the tasks."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.1
    """Dropout of hidden states and attention, in pre-training and in fine-tuning."""

    initial: Annotated[Float, Field(gt=0)] | None = None
    """Standard deviation of the initial weights; null: BERT's 0.02, widened as 1 / sqrt(hidden) for a narrower model."""

    @property
    def initializer_range(self) -> float:
        """Standard deviation of the initial weights."""
        return self.initial or 0.02 * (768 / self.hidden) ** 0.5

    @property
    def width(self) -> int:
        """Width of every feed-forward block of the uniform model."""
        return self.ffn or 4 * self.hidden

    @model_validator(mode="after")
    def _heads_fit(self) -> "EncoderSpec":
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class NamedPlacement(Spec):
    """One placement by hand: the layers that have a block, all of one width, or the width of every layer."""

    name: Name
    layers: list[PositiveInt] | None = None
    """Layers (from 1) with a block; their widths make up for those without."""
    widths: list[Annotated[int, Field(ge=0)]] | None = None
    """The width of every layer, 0 for no block; together as wide as the uniform model."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "NamedPlacement":
        if (self.layers is None) == (self.widths is None):
            raise ValueError("give either layers or widths")
        return self


class PlacementsSpec(Spec):
    """The models to train beside the uniform one."""

    ratios: Annotated[list[Annotated[int, Field(ge=1, le=100)]], named_once("value")] = [10, 30, 50, 70, 90, 100]
    """Shares of layers with a block, in percent."""
    places: Annotated[list[Place], named_once("value")] = ["first", "middle", "last"]
    """Where these layers are."""
    explicit: list[NamedPlacement] = []
    """Placements by hand."""


class GuardSpec(Spec):
    """What counts as instability, and how often the learning rate is halved before a run is given up."""

    window: Annotated[int, Field(ge=5)] = 50
    """Steps over which the running mean and deviation of the loss are taken."""
    deviations: Annotated[Float, Field(gt=0)] = 6.0
    """A loss above the mean by this many deviations is a spike ..."""
    rise: Annotated[Float, Field(gt=0)] = 0.5
    """... where it is above the mean by this many nats as well."""
    halvings: Annotated[int, Field(ge=0)] = 3
    """Times that the rate is halved before the run is given up as unstable."""


class PretrainSpec(Spec):
    """Masked-language pre-training with whole words masked, on packed sequences."""

    steps: PositiveInt
    """Updates of the weights."""
    batch_size: PositiveInt = 32
    """Sequences of one update, over all devices."""
    accumulate: PositiveInt = 1
    """Parts that an update's batch is computed in, one after the other: less memory, the same result."""
    length: Annotated[int, Field(ge=4)] = 128
    """Tokens of every sequence."""
    lr: Annotated[Float, Field(gt=0)] = 1e-3
    warmup: Share = 0.1
    """Share of the steps during which the learning rate rises to `lr`; it then falls to 0 along a cosine."""
    weight_decay: Annotated[Float, Field(ge=0)] = 0.01
    clip: Annotated[Float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    mask: Annotated[Share, Field(gt=0, lt=1)] = 0.15
    """Share of the words to predict; of their tokens 80 % are masked, 10 % replaced, 10 % left."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs, fp32 elsewhere."""
    checkpoint_steps: PositiveInt = 200
    """Steps between two checkpoints: where a killed run goes on, and where an unstable one goes back to."""
    evaluation_sequences: PositiveInt = 2048
    """Most held-out sequences that the loss is measured on."""
    guard: GuardSpec = GuardSpec()

    @model_validator(mode="after")
    def _parts(self) -> "PretrainSpec":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of accumulate ({self.accumulate})")
        return self


class PlacementTask(DataSpec):
    """A task that every pre-trained model is fine-tuned on; the fields of a recipe's `data`."""

    calibration: CalibrationSpec = CalibrationSpec(size=1)
    """Not used here; the rows would be missing in training."""
    selection: SelectionSplitSpec = SelectionSplitSpec(size=64)
    """Not used here, since nothing is chosen."""
    train_rows: PositiveInt | None = None
    """Most rows to fine-tune on, the same for all; null: all of them."""

    @property
    def label_of_task(self) -> str:
        """What results call the task."""
        return self.task or str(self.train).rpartition("/")[2].rpartition(".")[0]


class PlacementRecipe(Spec):
    """One placement experiment: every placement times every seed is pre-trained, then fine-tuned on every task."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2]
    """Each decides initial weights, order of the text and masks, the same for every placement: runs are paired by it."""
    text: TextSpec
    encoder: EncoderSpec = EncoderSpec()
    placements: PlacementsSpec = PlacementsSpec()
    pretrain: PretrainSpec
    tasks: list[PlacementTask] = []
    finetune: FinetuneSpec = FinetuneSpec()

    @model_validator(mode="after")
    def _fits(self) -> "PlacementRecipe":
        if self.pretrain.length > self.encoder.positions:
            raise ValueError(
                f"pretrain.length ({self.pretrain.length}) is longer than encoder.positions ({self.encoder.positions})"
            )
        for number, task in enumerate(self.tasks):
            if task.max_length > self.encoder.positions:
                raise ValueError(
                    f"tasks.{number}.max_length ({task.max_length}) is longer than encoder.positions "
                    f"({self.encoder.positions})"
                )
        names = [task.label_of_task for task in self.tasks]
        if len(set(names)) != len(names) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("each task and each seed may be named once")
        return self
