"""Renaming and deleting parameter files from the page; what is deleted can be brought back."""

import secrets
from pathlib import Path
from threading import Lock

from dode.errors import DodeError, FileExistsAlready, ParameterFileError
from dode.files.atomic_write import move
from dode.files.library import target_of

from .. import library
from ..host import folder_paths

TRASH = ".trash"
_ENDING = ".deleted"  # not the library's, so that no list has it
_deleted: dict[str, tuple[Path, Path]] = {}  # by a word that the page gets: where a file is, and where it was
_lock = Lock()


class FixedFile(ParameterFileError):
    """A file that lies where this pack changes nothing."""


class NothingToUndo(ParameterFileError):
    """What is to be brought back is not known, or is back already."""


def is_own(name: str) -> bool:
    """Whether a file can be renamed and deleted from here."""
    try:
        _own(name)
    except DodeError:
        return False
    return True


def rename(name: str, to: str) -> str | None:
    """Give a file of the library another name in its folder; returns the name that the library lists.

    Raises:
        FixedFile, ParameterFileError: it cannot be; the message says why.
    """
    folder, path = _own(name)
    target = target_of(to, folder)
    if target == path:
        return name
    _move(path, target)
    return library.name_of(target)


def delete(name: str) -> str:
    """Put a file into the trash beside the distilled samplers; returns a word that brings it back as long as ComfyUI runs.

    Raises:
        FixedFile, ParameterFileError: it cannot be; the message says why.
    """
    folder, path = _own(name)
    word = secrets.token_hex(16)
    kept = folder / TRASH / f"{path.stem}.{word}{_ENDING}"
    _move(path, kept)
    with _lock:
        _deleted[word] = (kept, path)
    return word


def restore(word: str) -> str | None:
    """Undo ``delete``; returns the name that the library lists, with a number where its old one was taken meanwhile.

    Raises:
        NothingToUndo, ParameterFileError: there is nothing to bring back, or it cannot be.
    """
    with _lock:
        kept, path = _deleted.pop(word, (None, None))
    if kept is None or path is None:
        raise NothingToUndo(f"There is nothing to bring back. What was deleted before a restart lies in {TRASH}.")
    try:
        target, number = path, 1
        while target.exists():
            number += 1
            target = path.with_name(f"{path.stem}_{number:05}{path.suffix}")
        _move(kept, target)
    except DodeError:
        with _lock:
            _deleted[word] = (kept, path)
        raise
    return library.name_of(target)


def _own(name: str) -> tuple[Path, Path]:
    """The library's folder that a listed file lies in, and its path there. Links that lead elsewhere are not followed."""
    path = library.path_of(name)
    for folder in (library.output_folder(), Path(folder_paths.models_dir) / library.FOLDER):
        if path.is_relative_to(folder) and path.resolve().is_relative_to(folder.resolve()):
            return folder, path
    raise FixedFile(f"{name} lies in a folder in which nothing is changed from here: it came with the pack, or by a setting.")


def _move(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        move(path, target)
    except FileExistsError as error:
        raise FileExistsAlready(f"There is a file {target.name} already. Choose another name.") from error
    except OSError as error:
        raise ParameterFileError(f"{path.name} could not be moved: {error.strerror or error}.") from error
