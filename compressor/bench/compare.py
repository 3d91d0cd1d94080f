"""`compressor compare`: finished runs side by side, row by row where they were evaluated on the same rows."""

import shlex
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.answers.kinds import SINGLE, TOKENS, Task
from compressor.data.answers.told import task_told
from compressor.errors import UserError, nearest, whole_result
from compressor.measurement.predictions import fingerprint
from compressor.measurement.statistics import compare
from compressor.measurement.timing.latency import WORKLOAD
from compressor.model.units import plan_units
from compressor.report.build import read_result
from compressor.report.formats import is_cascade, is_full
from compressor.report.wording.wording import verdict
from compressor.stages.cascade.shared import MEASURED
from compressor.stages.predictions import LABELS, PREDICTIONS, WITHIN

Cell = tuple[int, int | str]
"""Batch size, and length in tokens or "workload"."""
RESULT = "result.json"
PAIRED = ("rows", "agreement", "flips", "gained", "lost", "metric", "accuracy_delta", "ci95", "mcnemar_p")
"""Fields of a Comparison that mean the same between two compressed models; a tier speaks of a model and its full one."""
UNREADABLE = (OSError, ValueError, TypeError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for a file that is cut off, changed or no archive of arrays."""
LATENCY = ("p50_ms", "speedup", "speedup_ci95", "claimed", "complete", "provider")


@dataclass(frozen=True)
class FinishedRun:
    """One variant of a finished run: logits [N, C] of the evaluation rows, gold labels where they were kept, as `task` has them.

    `summary` is its entry in the output but for the latency, which `cells` holds for every cell that was measured.
    """

    directory: Path
    number: int
    summary: dict[str, Any]
    cells: dict[Cell, dict[str, Any]]
    label_names: list[str]
    full_sha256: str
    logits: np.ndarray
    labels: np.ndarray | None
    task: Task

    @property
    def title(self) -> str:
        """What sentences call the run."""
        return f"run {self.number} ({self.summary['name']})"

    @property
    def machine(self) -> str:
        """What the latencies were measured on."""
        return f"{self.summary['device'] or 'unknown device'}, {self.summary['threads'] or 'unknown number of'} threads"


def compare_runs(directories: Sequence[Path], variant: str | None = None) -> dict[str, Any]:
    """Return `variant` of every run side by side and of every later run paired with the first, as JSON-able values.

    `variant` None stands for what a run ships, else for its compressed model. `runs` has an entry a run; shares are fractions,
    sizes bytes, latencies ms, all in `cell`, the first one that every run measured (None: there is none). `paired` has an entry
    for each later run with the same evaluation rows and label names; positive deltas are better than the first run. `notes`
    says why the others are missing and what else a reader
    must know. Raises UserError for fewer than two directories, one named twice, one without a readable result or without
    `variant`, and predictions that contradict their result or each other.
    """
    directories = [Path(directory) for directory in directories]
    _check_directories(directories)
    runs = [read_run(directory, number, variant) for number, directory in enumerate(directories, 1)]
    first, cell = runs[0], common_cell(runs)
    paired, notes = [], []
    for run in runs[1:]:
        reason = why_not_paired(first, run)
        if reason:
            notes.append(reason)
            continue
        versus = pair(first, run)
        paired.append({"run": run.number, "against": first.number, **versus})
        notes += pairing_notes(first, run, labelled=versus["accuracy_delta"] is not None)
    return {
        "runs": [{**run.summary, "latency": run.cells[cell] if cell else None} for run in runs],
        "cell": {"batch": cell[0], "length": cell[1]} if cell else None,
        "paired": paired,
        "notes": [*notes, *latency_notes(runs, cell)],
    }


def read_run(directory: Path, number: int, variant: str | None) -> FinishedRun:
    """Return `variant` of the run in `directory`, which is number `number` (from 1) of those compared.

    None stands for what the run ships, where it decided that, and else for its compressed model.

    Raises UserError where result.json is missing, unreadable or incomplete, where the run has no such variant, and
    where predictions.npz is missing, corrupt or not the one that the result was made from.
    """
    path = directory / RESULT
    with whole_result(str(path)):
        result = read_result(path)
        answer = result["answer"]
        variant = variant or (answer["key"] if answer else "compressed")
        summary = _summary(directory, result, variant)
        cells = {
            (row["batch"], row["length"]): {key: {"complete": True, **row}[key] for key in LATENCY}
            for row in result["variants"][variant]["latency"]
        }
        label_names = list(result["data"].get("label_names") or [])
        full_sha256, sha256 = (result["variants"][name]["predictions_sha256"] for name in ("full", variant))
    logits, labels, within = _read_predictions(
        directory / PREDICTIONS, "full" if is_cascade(variant) and not answer else variant
    )
    if is_cascade(variant) and not answer:
        logits, *_ = _read_predictions(directory / f"{MEASURED}.npz", "logits")
    rows = summary["evaluation"]["rows"]
    task, answers = replace(task_in(result), within=within), len(logits)
    whole = logits.ndim == 2 and logits.dtype.kind == "f" and logits.size > 0
    whole = whole and (within is None or within.shape == (answers,)) and (within is None) != task.row.whole
    whole = whole and rows == (task.count(answers) if task.kind == TOKENS else answers)
    if not whole or fingerprint(logits, task) != sha256:
        raise _contradiction(directory, f"the logits of {variant!r} are not those that {RESULT} speaks of")
    wanted = task.no_labels(answers, logits.shape[1])
    if labels is not None and (labels.shape != wanted.shape or labels.dtype.kind != wanted.dtype.kind):
        each = "integer" if task == SINGLE else "label"
        raise _contradiction(directory, f"the labels are not one {each} for each of the {rows:,} rows")
    return FinishedRun(directory, number, summary, cells, label_names, full_sha256, logits, labels, task)


def answers_in(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a finished run says of its answers; runs of earlier versions have one label a row."""
    return result["data"].get("answers") or {"kind": SINGLE.kind, "metric": SINGLE.row.metric}


def task_in(result: Mapping[str, Any]) -> Task:
    """Return the task of a finished run."""
    return task_told(answers_in(result))


def common_cell(runs: Sequence[FinishedRun]) -> Cell | None:
    """Return the first run's first cell that all runs measured, or None.

    The workload cell is made of evaluation texts, so it is the same cell only where these are the same.
    """
    same_rows = len({run.summary["evaluation"]["sha256"] for run in runs}) == 1
    for cell in runs[0].cells:
        if all(cell in run.cells for run in runs) and (same_rows or cell[1] != WORKLOAD):
            return cell
    return None


def why_not_paired(first: FinishedRun, run: FinishedRun) -> str | None:
    """Return the sentence that says why two runs cannot be compared row by row, or None where they can."""
    here, there = run.summary["evaluation"], first.summary["evaluation"]
    start = f"{run.title} is not paired with {first.title}:"
    if here["sha256"] != there["sha256"]:
        return (
            f"{start} the evaluation rows differ ({here['rows']:,} rows, sha {here['sha256'][:12]} against "
            f"{there['rows']:,} rows, sha {there['sha256'][:12]})."
        )
    if run.task != first.task:
        return f"{start} what counts as another answer differs (data.kind, tolerance or threshold)."
    # the hash covers label numbers only: what a number means must agree too
    names = zip_longest(run.label_names, first.label_names)
    differing = next(((number, *pair) for number, pair in enumerate(names) if pair[0] != pair[1]), None)
    return differing and "{} the label names differ (label {} is {!r} against {!r}).".format(start, *differing)


def pair(first: FinishedRun, run: FinishedRun) -> dict[str, Any]:
    """Return the fields PAIRED of `run` against `first`, and the verdict; without labels, accuracy fields are None.

    Both were evaluated on the same rows, so labels that one of them kept serve both. Raises UserError where logits or
    labels contradict that.
    """
    kept = [labels for labels in (first.labels, run.labels) if labels is not None]
    widths = first.logits.shape, run.logits.shape
    if widths[0] != widths[1] or (len(kept) == 2 and not np.array_equal(*kept)):
        what = f"logits are {widths[0]} and {widths[1]}" if widths[0] != widths[1] else "labels differ"
        raise UserError(
            f"{first.directory} and {run.directory}: the evaluation hashes agree, but the {what}; run both recipes again "
            "with --fresh."
        )
    versus = asdict(compare(first.logits, run.logits, kept[0] if kept else None, task=first.task))
    interval = list(versus["ci95"]) if versus["ci95"] else None
    return {**{key: versus[key] for key in PAIRED}, "ci95": interval, "verdict": verdict(versus)}


def pairing_notes(first: FinishedRun, run: FinishedRun, *, labelled: bool) -> list[str]:
    """Return what a reader of a paired row must know; `labelled` tells whether its accuracy was measured."""
    notes = []
    if run.full_sha256 != first.full_sha256:
        notes.append(
            f"{run.title} and {first.title} have different full models: agreement, flips and tier of each are against its "
            "own."
        )
    if not labelled and run.summary["accuracy"] is not None:
        notes.append(
            f"{run.title} and {first.title}: neither run kept the gold labels, so the paired accuracy is not measured; "
            f"remove {PREDICTIONS} from one of them and run its recipe again, which writes it with labels."
        )
    return notes


def latency_notes(runs: Sequence[FinishedRun], cell: Cell | None) -> list[str]:
    """Return how far the latencies of different runs may be compared, and the command that compares them well."""
    remedy = f"`compressor bench {shlex.join(str(run.directory) for run in runs)}` times them interleaved."
    if cell is None:
        return [f"No latency is shown, because no batch x length cell was measured in every run; {remedy}"]
    notes = [
        "The latencies of different runs were measured at different times, maybe on different machines; each speed-up is "
        f"against the full model of its own run. {remedy}"
    ]
    if len({run.machine for run in runs}) > 1:
        machines = "; ".join(f"{run.title}: {run.machine}" for run in runs)
        notes.append(f"The machines differ ({machines}): p50 and speed-up of one say little about another.")
    return notes


def _check_directories(directories: Sequence[Path]) -> None:
    if len(directories) < 2:
        given = ", ".join(map(str, directories)) or "none"
        raise UserError(f"compare needs two or more run directories, given: {given}; name another finished run.")
    seen: dict[Path, Path] = {}
    for directory in directories:
        other = seen.setdefault(directory.resolve(), directory)
        if other is not directory:
            same = "" if str(other) == str(directory) else f" (it is the same folder as {other})"
            raise UserError(f"{directory}: named twice{same}; give each run directory once.")


def _summary(directory: Path, result: dict[str, Any], name: str) -> dict[str, Any]:
    variants = result["variants"]
    if name not in variants:
        raise UserError(
            f"--variant {name!r}: {directory} has only {', '.join(variants)}; name one that every run has"
            f"{nearest(name, variants) or '.'}"
        )
    variant, plan, environment = variants[name], result["plan"], result["environment"]
    whole = is_cascade(name) and result["cascade"] is not None and result["cascade"]["model"] == "full"
    versus, evaluation = variant["versus_full"], result["data"]["splits"]["evaluation"]
    return {
        "name": result["name"],
        "directory": str(directory),
        "task": result["data"]["task"],
        "variant": name,
        "ships": bool(result["answer"]) and name == result["answer"]["key"],
        "evaluation": {key: evaluation[key] for key in ("rows", "sha256")},
        "skip": [] if is_full(name) or whole else list(plan_units(plan)),
        "layers": plan["layers"],
        "metric": answers_in(result)["metric"],
        **{key: variant[key] for key in ("accuracy", "accuracy_ci95")},
        **{key: versus[key] if versus else None for key in ("agreement", "flips", "tier")},
        **{key: variant[key] for key in ("parameters", "encoder_flops", "bytes")},
        "device": (environment.get("device") or {}).get("name"),
        "threads": result["benchmark"].get("threads") or environment.get("threads"),
    }


def _read_predictions(path: Path, variant: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return the logits of a variant, the gold labels, and what each row is counted within, the last two where they are kept."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = (variant, LABELS, WITHIN)
            logits, labels, within = (np.asarray(file[name]) if name in file.files else None for name in names)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there are no predictions here; run the recipe again.") from error
    except UNREADABLE as error:
        raise UserError(
            f"{path}: cannot be read as predictions ({error}); remove it and run the recipe again."
        ) from error
    if logits is None:
        raise _contradiction(path.parent, f"there are no logits of {variant!r}")
    return logits, labels, within


def _contradiction(directory: Path, what: str) -> UserError:
    return UserError(f"{directory / PREDICTIONS}: {what}; remove it and run the recipe again.")
