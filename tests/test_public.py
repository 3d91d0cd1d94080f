"""What the package shows: every name says what it is and what it takes."""

import inspect
import tomllib
from pathlib import Path

import pytest

import compressor

OWN = [name for name in compressor.__all__ if name != "__version__"]


def members(value: type) -> dict[str, object]:
    """Return the public methods and properties that a class of ours defines itself."""
    found = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return {name: getattr(item, "fget", None) or getattr(item, "func", item) for name, item in found.items()}


def test_dir_shows_what_is_public_and_nothing_else_of_ours():
    assert {name for name in dir(compressor) if not name.startswith("__")} == {*OWN}
    assert "__version__" in dir(compressor)
    assert not hasattr(compressor, "torch")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = compressor.nothing


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert compressor.__version__ == project["project"]["version"]


@pytest.mark.parametrize("name", OWN)
def test_every_public_name_has_a_docstring_and_annotations(name):
    value = getattr(compressor, name)
    assert inspect.getdoc(value)
    functions = {name: value} if inspect.isfunction(value) else members(value)
    for own, function in functions.items():
        if not inspect.isfunction(function):
            continue
        signature = inspect.signature(function)
        assert inspect.getdoc(function), own
        assert signature.return_annotation is not inspect.Signature.empty, own
        untyped = [key for key, one in signature.parameters.items() if one.annotation is one.empty and key != "self"]
        assert untyped == [], own


def test_every_argument_of_compress_is_explained():
    text = inspect.getdoc(compressor.compress)
    for name in inspect.signature(compressor.compress).parameters:
        assert f"    {name}: " in text or f"    **{name}: " in text, name
