"""A small sweep from file to page: kept, shared, failed, compared."""

import json
import re

import pytest
from rich.cells import cell_len
from tiny import letter_rows, save_model, save_rows

from compressor.cli.sweep.tables import points_table
from compressor.console import show
from compressor.errors import UserError
from compressor.measurement.machine.environment import torch_threads
from compressor.recipe.file import load_spec
from compressor.recipe.sweep import SweepRecipe
from compressor.sweep.result import front, named_runs, open_sweep
from compressor.sweep.sweep import expected, run_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, data, a base recipe and a sweep of three points, of which one has no model."""
    folder = tmp_path_factory.mktemp("sweep")
    save_model(folder / "a", "bert", layers=3, hidden_size=32, num_labels=2)
    rows = letter_rows(160)
    save_rows(folder, rows, 100)
    (folder / "base.yaml").write_text(
        f"""name: base
model: {{path: {folder}/a}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: text
  label: label
  calibration: {{split: train, size: 40}}
  selection: {{size: 30}}
  max_length: 32
selection: {{search: exhaustive, layers: 1}}
compensation: {{refit: closed_form}}
export: {{variants: [optimized]}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    (folder / "sweep.yaml").write_text(
        f"""name: small
base: base.yaml
list:
- {{name: one}}
- {{name: two, selection.layers: 2}}
- {{name: gone, model.path: "{folder}/nowhere"}}
engine: {{workers: 1}}
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """Return the folder of the finished sweep, and what was said."""
    out, said = tmp_path_factory.mktemp("runs") / "small", []
    found = run_sweep(load_spec(folder / "sweep.yaml", SweepRecipe), out, source=folder / "sweep.yaml", say=said.append)
    return found, said


def test_points_share_what_they_have_in_common_and_one_that_fails_stops_no_other(done):
    found, said = done
    one, two, gone = found.result["points"]
    assert [row["state"] for row in (one, two, gone)] == ["done", "done", "failed"]
    assert (gone["code"], "no such directory" in gone["error"]) == (2, True)
    assert two["shared_stages"] >= 2  # scores and the full model's files are made once
    assert one["shared_stages"] == 0
    assert found.result["shared"]["stages"] == two["shared_stages"]
    stages = {
        stage["name"]: stage for stage in json.loads((found.path / "points/two/result.json").read_text())["stages"]
    }
    assert {name for name, stage in stages.items() if stage["shared"]} == {"scores", "full-onnx"}
    assert len(said) == 3
    assert any(line.startswith("gone: failed: model.path") for line in said)


def test_a_point_is_an_ordinary_run(done, command):
    found, _ = done
    code, _, stderr = command("report", found.path / "points" / "one")
    assert code == 0, stderr
    assert found.failed[0]["name"] == "gone"
    frame = found.to_frame()
    assert list(frame.index) == ["one", "two", "gone"]
    assert frame.loc["two", "selection.layers"] == 2
    assert frame.loc["one", "rows"] == 60


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_terminal(done, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    show(points_table(done[0].result))
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if cell_len(line) > width] == []
    assert all(name in text for name in ("one", "two", "gone", "failed"))
    assert "stages were taken from other points" in " ".join(text.split())


def test_the_page_has_every_point_and_fetches_nothing(done):
    found, _ = done
    page = (found.path / "sweep.html").read_text(encoding="utf-8")
    assert all(f'href="points/{name}/report.html"' in page for name in ("one", "two"))
    assert "gone" in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert (found.path / "figures" / "sweep.png").stat().st_size > 1000


@pytest.mark.parametrize("threads", [1, 2])
def test_what_was_timed_is_kept_whatever_the_threads_of_who_asks(folder, done, threads):
    with torch_threads(threads):
        points = expected(load_spec(folder / "sweep.yaml", SweepRecipe), done[0].path, source=folder / "sweep.yaml")
    assert [point.kept == point.stages for point in points[:2]] == [True, True]


def test_what_is_done_is_kept(folder, done, command):
    found, _ = done
    points = expected(load_spec(folder / "sweep.yaml", SweepRecipe), found.path, source=folder / "sweep.yaml")
    assert [(point.kept == point.stages, bool(point.refused)) for point in points] == [(True, False)] * 2 + [
        (True, True)
    ]
    code, stdout, stderr = command("sweep", folder / "sweep.yaml", "--out", found.path, "--json")
    assert code == 2, stderr  # the third is still wrong
    assert [row["state"] for row in json.loads(stdout)["points"]] == ["kept", "kept", "failed"]
    code, stdout, _ = command("sweep", folder / "sweep.yaml", "--out", found.path, "--dry-run")
    assert (code, "3 points, 1 refused, the others done." in stdout) == (0, True)


def test_a_dry_run_says_what_is_shared_and_writes_nothing(folder, tmp_path):
    points = expected(load_spec(folder / "sweep.yaml", SweepRecipe), tmp_path / "out", source=folder / "sweep.yaml")
    assert [point.shared for point in points[:2]] == [0, 2]
    assert not (tmp_path / "out").exists()


def test_compare_takes_the_points_of_a_sweep(done, command):
    found, _ = done
    assert named_runs([found.path]) == [found.path / "points" / name for name in ("one", "two")]
    code, stdout, stderr = command("compare", found.path, "--json")
    assert code == 0, stderr
    assert [run["name"] for run in json.loads(stdout)["runs"]] == ["one", "two"]


def test_a_folder_of_something_else_is_refused(folder, tmp_path, command):
    (tmp_path / "letter.txt").write_text("x", encoding="utf-8")
    code, _, stderr = command("sweep", folder / "sweep.yaml", "--out", tmp_path)
    assert (code, "the folder holds letter.txt, which is no sweep's" in stderr) == (2, True)
    with pytest.raises(UserError, match=r"there is no sweep\.json to read here"):
        open_sweep(tmp_path)


def test_validate_looks_at_every_point(folder, command):
    code, _, stderr = command("validate", folder / "sweep.yaml")
    assert (code, "nowhere" in stderr) == (2, True)
    code, _, stderr = command("run", folder / "sweep.yaml")
    assert (code, "this is a recipe for `compressor sweep`" in stderr) == (2, True)


def test_the_front_by_hand():
    rows = [{"name": name, "flip_rate": rate, "speedup": speed}
            for name, rate, speed in (("a", 0, 1.5), ("b", 0.1, 1.4), ("c", 0.1, 2.0), ("d", 0.2, 2.0), ("e", 0.3, None))]  # fmt: skip
    assert front(rows) == ["a", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("store", [None, "file://{}/bucket"], ids=["folder", "url"])
def test_a_real_ray_cluster_loses_a_node_and_nothing_else(folder, tmp_path, store):
    pytest.importorskip("ray", reason="ray is not installed")
    import threading
    import time

    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        engine = {"kind": "ray", "address": cluster.address, "threads": 1, "retries": 2, "workers": None}
        sweep = load_spec(
            folder / "sweep.yaml", SweepRecipe, {"engine": engine, "store": store and store.format(tmp_path)}
        )
        made = "bucket/entries/*/*/entry.json" if store else "out/points/*/.stages/scores.json"

        def kill():
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and len(list(tmp_path.glob(made))) < 2:
                time.sleep(0.2)  # both nodes are at work
            cluster.remove_node(nodes[1], allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        found = run_sweep(sweep, tmp_path / "out", source=folder / "sweep.yaml", device="cpu")
        killer.join()
        assert [row["state"] for row in found.result["points"]] == ["done", "done", "failed"], found.failed
        assert (tmp_path / "out" / "store").is_dir() == (store is None)
        assert not (tmp_path / "out" / "taken.tmp").exists()
    finally:
        ray.shutdown()
        for node in nodes[:1]:
            cluster.remove_node(node)
