"""What `compressor bench` times: the models that directories hold, the ways to run them, and who is compared with whom."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.cascade.runtime import SETTINGS
from compressor.errors import UserError, nearest, whole_result
from compressor.measurement.machine.libraries import TENSORRT
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.timing.subjects import TORCH_MODES, TorchMode
from compressor.recipe.file import read_yaml
from compressor.report.build import read_result
from compressor.run.run import TEACHER
from compressor.run.variants import FULL_ONNX


@dataclass(frozen=True)
class Target:
    """One thing to time: a Hugging Face directory in one of PyTorch's modes, an ONNX directory, or a cascade's parts.

    In a run directory `run` is that directory, `side` is full, compressed or cascade, `variant` is pytorch or the ONNX
    variant, that of the model which a cascade is cut from included, and the mode where it is not the plain one.
    """

    name: str
    path: Path
    onnx: bool
    run: Path | None = None
    side: str = ""
    variant: str = ""
    cascade: bool = False
    mode: TorchMode = TORCH_MODES["eager"]
    graph: bool = False
    """An ONNX file whose kernels are replayed as a CUDA graph."""
    tensorrt: bool = False
    """A plain ONNX file that TensorRT runs."""

    def runs_on(self, device: str) -> str:
        """Return what executes it on `device`."""
        return self.provider(device) if self.onnx else f"PyTorch {device.upper()}"

    def provider(self, device: str) -> str:
        """Return ONNX Runtime's provider for it on `device`."""
        return TENSORRT if self.tensorrt else PROVIDERS[device]


def find_targets(directories: Sequence[Path]) -> list[Target]:
    """Return what can be timed in each directory; raises UserError for one that holds no model."""
    targets = []
    for directory in directories:
        found = _targets_in(directory)
        if not found:
            raise UserError(
                f"{directory}: neither a model directory (config.json and weights), an ONNX directory (model.onnx), "
                "a cascade (cascade.json and its parts), nor a run directory."
            )
        targets += found
    names = [target.name for target in targets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"{repeated}: named twice; give each directory once.")
    return targets


def with_opponent(targets: Sequence[Target], directory: Path) -> tuple[list[Target], Path]:
    """Return the targets with the one in `directory` (--against), first where it is not among them, and its path.

    Raises UserError where the directory holds more than one.
    """
    rivals = find_targets([directory])
    if len(rivals) > 1:
        raise UserError(
            f"--against {directory}: holds {len(rivals)} models and everything is compared with one; name it, such as "
            f"{rivals[0].path}."
        )
    same = [target.path for target in targets if target.path.resolve() == rivals[0].path.resolve()]
    return (list(targets), same[0]) if same else ([*rivals, *targets], rivals[0].path)


def in_modes(targets: Sequence[Target], modes: Sequence[str], length: int, cuda_graph: bool) -> list[Target]:
    """Return every PyTorch target in each of PyTorch's modes and, with `cuda_graph`, every ONNX file as a graph as well.

    Raises UserError for a mode that does not exist, and where nothing is there to run so.
    """
    unknown = next((mode for mode in modes if mode not in TORCH_MODES), None)
    if unknown is not None:
        raise UserError(f"--pytorch {unknown!r} is not one of {', '.join(TORCH_MODES)}{nearest(unknown, TORCH_MODES)}.")
    special = [mode for mode in modes if mode != "eager"]
    if special and all(target.onnx for target in targets):
        raise UserError(
            f"--pytorch {special[0]}: none of these directories holds a PyTorch model; name one, or leave it out."
        )
    if cuda_graph and not any(target.onnx and not target.cascade for target in targets):
        raise UserError("--cuda-graph: none of these directories holds an ONNX model; name one, or leave it out.")
    made = []
    for target in targets:
        if target.onnx:
            made.append(target)
            if cuda_graph and not target.cascade:
                named = {"name": f"{target.name} (CUDA graph)", "variant": f"{target.variant} graph"}
                made.append(replace(target, graph=True, **named))
            continue
        for mode in dict.fromkeys(modes):
            words = TORCH_MODES[mode].words(length)
            named = {"name": f"{target.name} (PyTorch {words})", "variant": f"{target.variant} {mode}"} if words else {}
            made.append(replace(target, mode=TORCH_MODES[mode], **named))
    return made


def with_tensorrt(targets: Sequence[Target]) -> list[Target]:
    """Return the targets, each plain ONNX file (`fp32`) once more on TensorRT.

    Fused files have nodes that only ONNX Runtime's own providers know; TensorRT fuses the plain graph by itself.
    """
    made = []
    for target in targets:
        made.append(target)
        if target.onnx and not (target.cascade or target.graph) and target.path.name == "fp32":
            named = {"name": f"{target.name} (TensorRT)", "variant": f"{target.variant} tensorrt"}
            made.append(replace(target, tensorrt=True, **named))
    return made


def against(targets: Sequence[Target], opponent: Path | None = None) -> dict[str, str]:
    """Return target -> opponent: the target at the path `opponent`, in the first of its modes.

    Without one it is its own run's full model in the same format, else the first target.
    """
    if opponent is not None:
        rival = next(target.name for target in targets if target.path == opponent)
        return {target.name: rival for target in targets}
    # a full model is what others are measured by: it finds itself here, and has no other opponent
    full = {(target.run, target.variant): target.name for target in targets if target.side == "full"}
    return {target.name: full.get((target.run, target.variant), targets[0].name) for target in targets}


def shipped_names(directories: Sequence[Path]) -> set[str]:
    """Return the names of the targets that finished runs among `directories` decided to ship.

    A result that cannot be read names none: timing does not need it.
    """
    names = set()
    for path in (directory / "result.json" for directory in directories):
        with suppress(UserError), whole_result(str(path)):
            result = read_result(path)
            answer, exported = result["answer"], result["shipped"]
            if answer and answer["path"] and (answer["engine"] == "onnx" or answer["precision"] == "float32"):
                names.add(str(path.parent / answer["path"]))
            elif exported:
                names.add(str(path.parent / "onnx" / exported["variant"]))
    return names


def _targets_in(directory: Path) -> list[Target]:
    if (directory / SETTINGS).is_file() and (directory / "front.onnx").is_file():
        return [Target(str(directory), directory, onnx=True, cascade=True)]
    if (directory / "model.onnx").is_file():
        return [Target(str(directory), directory, onnx=True)]
    if (directory / "config.json").is_file():
        return [Target(str(directory), directory, onnx=False)]
    if not (directory / "recipe.yaml").is_file():
        return [Target(str(file.parent), file.parent, onnx=True) for file in sorted(directory.glob("*/model.onnx"))]
    targets = [
        Target(str(directory / name), directory / name, False, directory, side, "pytorch")
        for side, name in (("full", TEACHER), ("compressed", "model"))
        if (directory / name).is_dir()
    ]
    for side, name in (("full", FULL_ONNX), ("compressed", "onnx")):
        folders = sorted(file.parent for file in directory.glob(f"{name}/*/model.onnx"))
        targets += [Target(str(folder), folder, True, directory, side, folder.name) for folder in folders]
    parts = directory / "onnx" / "cascade"
    # a run whose recipe no longer has one may still hold the files
    recipe, _ = read_yaml(directory / "recipe.yaml")
    asked = recipe.get("cascade") is not None or recipe.get("ship") is not None
    if (parts / SETTINGS).is_file() and asked:
        targets.append(Target(str(parts), parts, True, directory, "cascade", "optimized", cascade=True))
    return targets
