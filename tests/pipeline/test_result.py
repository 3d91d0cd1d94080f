"""What result.json says of a run as a whole: where the rows that decide come from, and what stands behind a teacher."""

import pytest

from compressor.files import write_text
from compressor.pipeline.pipeline import stage_keys
from compressor.pipeline.result import merged
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare
from compressor.run.rundir import open_run_dir

FINETUNE = "finetune={epochs: 1}"


@pytest.mark.parametrize(
    ("changes", "calibration", "selection"),
    [
        ([], "which the model may have been fine-tuned on", "which the model may have been fine-tuned on"),
        (["data.calibration.seen_in_training=false"], "which the recipe says the model was not trained on", None),
        ([FINETUNE], "and kept from the fine-tuning in this run", None),
        (["data.calibration.split=test"], "no part of training", "which the model may have been fine-tuned on"),
    ],
)
def test_rows_that_decide_say_where_they_come_from(tiny_task, tmp_path, changes, calibration, selection):
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "".join(f"{letter} z {letter} z,1\n" for letter in "abcdefghij"))
    sets = [
        *changes,
        *([f"data.test={other}", "separability.labels=teacher"] if "split=test" in "".join(changes) else []),
    ]
    run = prepare(load_recipe(tiny_task / "recipe.yaml", sets), tmp_path / "run", "cpu", silent)
    assert run.provenance["calibration"].endswith(calibration)
    assert run.provenance["selection"].endswith(selection or calibration)
    assert "guard" not in run.provenance


def test_what_stands_behind_a_teacher_is_that_of_its_files(tiny_task, tmp_path):
    recipe = load_recipe(tiny_task / "recipe.yaml", [FINETUNE])
    run = prepare(recipe, tmp_path / "run", "cpu", silent)
    keys = []
    with open_run_dir(run.path) as folder:
        for text in ("one", "two", "two"):

            def teacher(made, text=text):
                (made / "teacher").mkdir()
                write_text(made / "teacher" / "model.safetensors", text)
                write_text(made / "teacher.json", "{}")

            (folder.path / ".stages" / "teacher.json").unlink(missing_ok=True)
            folder.stage("teacher", stage_keys(run)["teacher"], ("teacher", "teacher.json"), teacher)
            keys.append(stage_keys(run))
    one, two, again = keys
    assert one["teacher"] == two["teacher"]
    assert {name for name in one if one[name] != two[name]} == set(one) - {"teacher"}
    assert two == again


def test_parts_of_several_stages_under_one_key_are_put_together():
    parts = [{"analysis": {"ffn": 1}, "plan": 2}, {"analysis": {}}, {"analysis": {"roles": 3}}]
    assert merged(parts) == {"analysis": {"ffn": 1, "roles": 3}, "plan": 2}
    with pytest.raises(TypeError):
        merged([{"plan": 2}, {"plan": 3}])
