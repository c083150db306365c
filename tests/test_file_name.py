"""Names of parameter files: what every system keeps."""

import pytest

from dode.errors import ParameterFileError
from dode.files.file_name import checked_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a", "a.safetensors"),
        (" mine/a.safetensors ", "mine/a.safetensors"),
        ("a.safetensors.safetensors", "a.safetensors"),
        ("a.SafeTensors", "a.safetensors"),
        ("dots...in.it", "dots...in.it.safetensors"),
        ("emoji 🎨 é", "emoji 🎨 é.safetensors"),
        ("console/complete", "console/complete.safetensors"),
    ],
)
def test_names_that_are_kept(text: str, name: str) -> None:
    assert checked_name(text) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("CON", "device"), ("nul.x", "device"), ("mine/Com1", "device"), ("lpt9 .txt", "device"), ("a./b", "dot"),
        ("a/b.", "dot"), ("a /b", "blank"), ("a//b", "empty"), ("/a", "empty"), ("", "empty"), (".safetensors", "empty"),
        ("../a", "starts with a dot"), ("a/.b", "starts with a dot"), ("a\\b", "write / for subfolders"), ("a:b", "':'"),
        ("a\nb", "not allowed"), ("x" * 130, "too long"),
    ],
)  # fmt: skip
def test_names_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(ParameterFileError, match=f"is no name for a parameter file: .*{why}"):
        checked_name(text)
