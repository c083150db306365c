"""The parameter files that this ComfyUI knows: models/dode, output/dode, and the examples that come with the pack."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dode.errors import DodeError, ParameterFileError
from dode.parameter_file import Entry, ParameterFile, load_parameters, save_parameters

from . import PACK
from .host import folder_paths, log

FOLDER = "dode"
EXAMPLES = PACK / "example_parameters"
_MAX_NAME = 120
_FORBIDDEN = set('<>:"|?*\\')  # not allowed in file names on every system
_read: dict[str, tuple[tuple[int, int], ParameterFile | DodeError]] = {}


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
    """File names as the host's own loaders show them, relative to whichever of the folders holds them."""
    return folder_paths.get_filename_list(FOLDER)


def path_of(name: str) -> Path:
    """Raises ParameterFileError where there is no such file."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise ParameterFileError(
            f"There is no parameter file {name!r}. Put it into {os.path.join(folder_paths.models_dir, FOLDER)} and press R "
            "to refresh, or make one with Distill Sampler."
        )
    return Path(path)


def load(name: str) -> ParameterFile:
    """Read a file of the library; again only if it changed."""
    path = path_of(name)
    state = _state(path)
    known = _read.get(str(path))
    if known is None or known[0] != state:
        try:
            known = (state, load_parameters(path))
        except DodeError as error:
            known = (state, error)
        _read[str(path)] = known
    if isinstance(known[1], DodeError):
        raise known[1]
    return known[1]


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ParameterFileError(f"{path} could not be read: {error.strerror or error}.") from error
    return status.st_mtime_ns, status.st_size


def entries() -> Iterator[tuple[str, Entry]]:
    """All entries of all files that can be read, newest file first."""
    for name in sorted(names(), key=lambda name: (-_modified(name), name)):
        for entry in _entries_of(name):
            yield name, entry


def _modified(name: str) -> int:
    try:
        return _state(path_of(name))[0]
    except ParameterFileError:
        return 0  # deleted since the list was made


def _entries_of(name: str) -> tuple[Entry, ...]:
    try:
        return load(name).entries
    except DodeError as error:
        _warn_once(f"{name} is left out: {error}")
        return ()


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        log.warning("D-ODE: %s", text)


def name_of(path: Path) -> str | None:
    """The name under which the library lists a file; None where it does not."""
    for folder in map(Path, folder_paths.get_folder_paths(FOLDER)):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return None


def target_of(name: str, folder: Path | None = None) -> Path:
    """The file under output/dode, or another folder, that a name stands for, taken or not.

    Raises:
        ParameterFileError: it is no name.
    """
    folder = folder or output_folder()
    stem = name.strip().removesuffix(".safetensors")
    target = folder / f"{stem}.safetensors"
    odd = not stem or len(stem) > _MAX_NAME or stem.startswith(".") or any(c in _FORBIDDEN or ord(c) < 32 for c in stem)
    if odd or not target.resolve().is_relative_to(folder.resolve()):
        raise ParameterFileError(
            f"{name!r} is no name for a parameter file. Use a plain name, with / for subfolders of {folder}."
        )
    return target


def save(content: ParameterFile, name: str, folder: Path | None = None) -> Path:
    """Write a file under output/dode, or another folder. A name that is taken gets a number: nothing is ever overwritten."""
    target = target_of(name, folder)
    folder, stem = target.parent, target.name.removesuffix(".safetensors")
    number = 1
    while True:
        try:
            return save_parameters(target, content)
        except ParameterFileError:
            if not target.exists():
                raise
        number += 1
        target = folder / f"{stem}_{number:05}.safetensors"


def one(entry: Entry, **words: str) -> ParameterFile:
    """A file of one entry; words are author, licence and notes."""
    return replace(ParameterFile((entry,)), **words)
