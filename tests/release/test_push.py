"""`compressor push` against a stand-in of the hub on this machine: nothing here ever leaves it."""

import json
import os
import subprocess
import sys

import pytest
from hub import local_hub
from huggingface_hub import constants
from huggingface_hub.utils import reset_sessions

from compressor.release.verify import verify


@pytest.fixture
def hub(monkeypatch):
    """Return a hub that this process takes for the public one, with a token for it."""
    with local_hub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        reset_sessions()
        yield made
    monkeypatch.undo()
    reset_sessions()


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


def test_what_is_uploaded_verifies_once_downloaded(released, hub, tmp_path, command):
    code, out, error = command("push", released / "ship", "--to", "me/demo", "--private")
    assert (code, "hf_secret" in out + error) == (0, False), error
    assert f"uploaded: {hub.url}/me/demo/commit/1" in out
    assert [(entry["name"], entry["organization"], entry["private"]) for entry in hub.created] == [("demo", "me", True)]
    assert hub.tokens == {"Bearer hf_secret"}
    assert {"README.md", "config.json", "model.safetensors", "onnx/optimized/model.onnx", "LICENSE"} <= set(hub.files)
    assert not [name for name in hub.files if name.startswith("model/")]
    for name, content in hub.files.items():
        file = tmp_path / "snapshot" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    done = verify(tmp_path / "snapshot")
    assert (done.findings, done.card, list(done.onnx)) == ([], True, ["onnx/optimized"])
    assert verify(tmp_path / "snapshot/onnx/optimized").whole
    (tmp_path / "snapshot/config.json").write_text("{}")
    assert verify(tmp_path / "snapshot").findings[0].file == "config.json"


def test_the_snapshot_opens_with_transformers_and_the_runtime(released, hub, tmp_path, command):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from compressor.runtime import Classifier

    assert command("push", released / "open", "--to", "me/demo")[0] == 0
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    logits = model(**AutoTokenizer.from_pretrained(tmp_path)("a b c", return_tensors="pt")).logits
    answer = Classifier(tmp_path / "onnx/optimized")("a b c")[0]
    assert answer["label"] == model.config.id2label[int(logits.argmax())]


def test_a_dry_run_asks_nothing_and_needs_no_token(released, hub, no_token, command):
    code, out, _ = command("push", released / "ship", "--to", "me/demo", "--dry-run", "--json")
    found = json.loads(out)
    assert (code, hub.asked, found["url"]) == (0, [], None)
    assert found["files"]["model.safetensors"] == (released / "ship/model/model.safetensors").stat().st_size
    code, out, _ = command("push", released / "ship", "--to", "me/demo", "--dry-run", "--private")
    assert f"nothing was sent: {len(found['files'])} files" in out
    assert "would go to me/demo (private)" in out


def test_without_a_token_it_refuses_before_anything_is_read(tmp_path, hub, no_token, command):
    code, out, error = command("push", tmp_path, "--to", "me/demo")
    assert (code, out, hub.asked) == (2, "", [])
    assert error == (
        "error: --to me/demo: there is no token for the hub; log in with `hf auth login` or set HF_TOKEN (`--dry-run` needs "
        "none).\n"
    )


@pytest.mark.parametrize("name", ["demo", "me/", "/demo", "a/b/c", "me/a b", "me/..", ""])
def test_a_name_that_is_none_is_one_sentence(released, hub, command, name):
    code, _, error = command("push", released / "ship", "--to", name)
    assert (code, error.count("\n"), hub.asked) == (2, 1, [])
    assert "no name of a repository" in error


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [("/api/repos/create", 401, "the token is not accepted"), ("/api/repos/create", 403, "the token may not write there"),
     ("/preupload/", 404, "there is no such owner"), ("/commit/", 500, "it says"), ("/store/", 400, "the upload broke off")],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_sentence_and_nothing_half_is_left(released, hub, command, where, status, said):
    hub.fails[where] = status
    code, out, error = command("push", released / "ship", "--to", "me/demo")
    assert (code, out, hub.files) == (2, "", {})
    assert error.count("\n") == 1, error
    assert said in error
    assert "hf_secret" not in error


def test_a_hub_that_does_not_answer_is_one_sentence(released, hub, monkeypatch, command):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, error = command("push", released / "ship", "--to", "me/demo")
    assert (code, error.count("\n")) == (2, 1)
    assert "the upload broke off" in error


def test_offline_is_one_sentence(released, hub, monkeypatch, command):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reset_sessions()
    code, _, error = command("push", released / "ship", "--to", "me/demo")
    assert (code, "HF_HUB_OFFLINE is set" in error, hub.asked) == (2, True, [])


def test_a_run_that_is_not_what_its_card_says_is_not_sent(copied, hub, command):
    root = copied("ship")
    (root / "model/model.safetensors").write_bytes(b"x")
    code, _, error = command("push", root, "--to", "me/demo")
    assert (code, hub.asked) == (2, [])
    assert "model/model.safetensors: is not the file of the manifest" in error


def test_the_address_of_another_hub_is_taken_from_the_environment(released, tmp_path):
    with local_hub() as made:
        environment = {**os.environ, "HF_ENDPOINT": made.url, "HF_TOKEN": "hf_other", "HF_HUB_OFFLINE": "0"}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "compressor", "push", str(released / "ship"), "--to", "me/demo"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert made.tokens == {"Bearer hf_other"}
        assert "manifest.json" in made.files
