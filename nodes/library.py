"""The parameter files that this ComfyUI knows: models/dode, output/dode, and the examples that come with the pack."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from dode.errors import ParameterFileError
from dode.files import library
from dode.files.compatibility import compare
from dode.files.file_name import SUFFIX, checked_name
from dode.files.parameter_file import Entry, ModelInfo, ParameterFile, Recipe, save_numbered
from dode.version import __version__

from . import PACK
from .host import folder_paths, say_once

FOLDER = "dode"
EXAMPLES = PACK / "example_parameters"


def register_folder() -> None:
    """Make "dode" one of the host's model folders. Paths that the user's configuration added before stay."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)
    folder_paths.add_model_folder_path(FOLDER, str(output_folder()))
    folder_paths.add_model_folder_path(FOLDER, str(EXAMPLES))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {*extensions, ".safetensors"})


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def names() -> list[str]:
    """File names as the host's own loaders show them, relative to whichever of the folders holds them.

    A name means the file in the first of the folders that has one, as with everything of the host. What another folder has
    under the same name comes after it, with the folder: "my_sampler.safetensors [output]".
    """
    known = folder_paths.get_filename_list(FOLDER)
    hidden = [f"{name} [{label}]" for name in known for label, folder in _folders()[1:] if _is_hidden(name, folder)]
    if hidden:
        say_once(f"files of one name in two folders: the name alone means the first; the others are {', '.join(hidden)}.")
    return [*known, *hidden]


def _folders() -> list[tuple[str, Path]]:
    """The library's folders in the host's order, each with a word for it."""
    words = {str(output_folder()): "output", str(EXAMPLES): "examples"}
    folders = folder_paths.get_folder_paths(FOLDER)
    return [(words.get(str(folder), f"folder {number}"), Path(folder)) for number, folder in enumerate(folders, 1)]


def _is_hidden(name: str, folder: Path) -> bool:
    """Whether a folder has a file of a name that means another folder's."""
    path, meant = folder / name, folder_paths.get_full_path(FOLDER, name)
    return path.is_file() and meant is not None and not path.samefile(meant)


def path_of(name: str) -> Path:
    """Raises ParameterFileError where there is no such file."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        plain, _, label = name.removesuffix("]").rpartition(" [")
        path = next((folder / plain for word, folder in _folders()[1:] if word == label and _is_hidden(plain, folder)), None)
    if path is None:
        raise ParameterFileError(
            f"There is no parameter file {name!r}. Put it into {os.path.join(folder_paths.models_dir, FOLDER)} and press R "
            "to refresh, or make one with Distill Sampler."
        )
    return Path(path)


def load(name: str) -> ParameterFile:
    """Read a file of the library; again only if it changed."""
    return library.load(path_of(name))


def state_of(name: str) -> str:
    """Another text after the file has changed."""
    return str((name, *library.state_of(path_of(name))))


def size_and_date(name: str) -> dict[str, float]:
    """Bytes, and seconds since 1970."""
    nanoseconds, size = library.state_of(path_of(name))
    return {"bytes": size, "modified": nanoseconds / 1e9}


def entries() -> Iterator[tuple[str, Entry]]:
    """All entries of all files that can be read, newest file first."""
    return library.entries_of(_files(), say_once)


def _files() -> Iterator[tuple[str, Path]]:
    for name in names():
        with suppress(ParameterFileError):  # deleted since the list was made
            yield name, path_of(name)


def name_of(path: Path) -> str | None:
    """The name under which the library lists a file; None where it does not."""
    for label, folder in _folders():
        if path.is_relative_to(folder):
            name = str(path.relative_to(folder))
            return f"{name} [{label}]" if _is_hidden(name, folder) else name
    return None


def without_folders(text: str) -> str:
    """A text for the page, which need not know where on this machine the library's folders are."""
    for folder in [*folder_paths.get_folder_paths(FOLDER), str(output_folder())]:
        text = text.replace(f"{folder}{os.sep}", "").replace(folder, "")
    return text


def save(content: ParameterFile, name: str, folder: Path | None = None) -> Path:
    """Write a file under output/dode, or another folder, under a name that no file of the library has: its folders are one
    list of names. A name that is taken gets a number: nothing is ever overwritten."""
    return save_numbered(library.target_of(name, folder or output_folder()), content, taken=_taken)


def _taken(path: Path) -> bool:
    folder = next((folder for _, folder in _folders() if path.is_relative_to(folder)), None)
    name = path.name if folder is None else path.relative_to(folder)
    return any(os.path.lexists(folder / name) for _, folder in _folders())


def made_before(name: str, recipe: Recipe, model: ModelInfo, scales: Sequence[float]) -> tuple[str, tuple[Entry, ...]] | None:
    """What the same fit has made, saved under this name or under it with a number; newest first.

    Args:
        recipe: of the fit. Without "identity", which says what was fitted on, no fit is taken for another.
        model: its identity must be known too: the checkpoint's fingerprint, and its weight patches.
        scales: the guidance of each entry that the fit makes, in its order.

    Returns:
        the file's name and the entries; None where there is no such file.
    """
    if not (name.strip() and recipe.get("identity") and model.fingerprint and model.patches):
        return None
    called = re.compile(re.escape(str(checked_name(name)).removesuffix(SUFFIX)) + rf"(_\d{{5,}})?{re.escape(SUFFIX)}( \[.*\])?")
    settings = {key: value for key, value in recipe.items() if key != "micro_batch"}  # which changes nothing but rounding
    for file, of_file in groupby(entries(), key=lambda named: named[0]):
        if not called.fullmatch(file.replace(os.sep, "/")) or load(file).software != f"dode {__version__}":
            continue
        found = tuple(entry for _, entry in of_file if _is_of(entry, settings, model))
        if [entry.guidance for entry in found] == list(scales):
            return file, found
    return None


def _is_of(entry: Entry, settings: Recipe, model: ModelInfo) -> bool:
    """Whether an entry was made with these settings on this model, and the fit was not stopped."""
    same = all(entry.recipe.get(key) == value for key, value in settings.items())
    return same and "stopped_early" not in entry.recipe and replace(entry.model, name=model.name) == model


class Keeper(library.Keeper):
    """The file of one fit under output/dode. If the disk refuses, models/dode may be on another."""

    def __init__(self, name: str):
        """Raises ParameterFileError for what is no name, before the fit. An empty one saves nothing."""
        folders = (output_folder(), Path(folder_paths.models_dir) / FOLDER)
        targets = [library.target_of(name, folder) for folder in folders] if name.strip() else []
        super().__init__(targets, _taken)

    def said(self, otherwise: str = "") -> str:
        """Where the file is, in words."""
        there = "The result is at this node's outputs until ComfyUI ends: make room, connect Save D-ODE Parameters, and queue"
        return super().said(otherwise or f"{there} again.")


def one(entry: Entry, **words: Any) -> ParameterFile:
    """A file of one entry; words are author, licence, notes and workflow."""
    return replace(ParameterFile((entry,)), **words)


def fitting(model: ModelInfo) -> str:
    """Which files of the library fit a model, in words."""
    fit = list(dict.fromkeys(name for name, entry in entries() if compare(entry, model) and not entry.fitted_on))
    if not fit:
        return "No file of the library fits this model: make one with Distill Sampler."
    return f"These fit: {', '.join(fit[:8])}{' …' * (len(fit) > 8)}."
