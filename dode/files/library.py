"""Folders of parameter files: what is in them, read again only where it changed; names for new ones; the file of a fit."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dode.errors import DodeError, FileNameError, ParameterFileError
from dode.files.file_name import checked_name
from dode.files.parameter_file import Entry, ParameterFile, load_parameters, save_numbered, save_parameters

_read: dict[str, tuple[tuple[int, int], ParameterFile | DodeError]] = {}
log = logging.getLogger("dode")


def state_of(path: Path) -> tuple[int, int]:
    """Other numbers after the file has changed; the first is when that was.

    Raises:
        ParameterFileError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ParameterFileError(f"{path} could not be read: {error.strerror or error}.") from error
    return status.st_mtime_ns, status.st_size


def load(path: Path) -> ParameterFile:
    """Read a file; again only if it changed. Raises as ``load_parameters``."""
    state = state_of(path)
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


def files_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Parameter files by their names, relative to whichever of the folders holds them.

    A name means the file in the first of the folders that has one; another folder's of that name is named with its folder.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ():
            name = path.relative_to(folder).as_posix()
            if found.setdefault(name, path) != path:
                found[f"{name} [{folder}]"] = path
    return found


def entries_of(files: Iterable[tuple[str, Path]], left_out: Callable[[str], None]) -> Iterator[tuple[str, Entry]]:
    """All entries of all files that can be read, newest file first; ``left_out`` is told of the others."""
    for name, path in sorted(files, key=lambda named: (-_modified(named[1]), named[0])):
        try:
            content = load(path)
        except DodeError as error:
            left_out(f"{name} is left out: {error}")
            continue
        for entry in content.entries:
            yield name, entry


def _modified(path: Path) -> int:
    try:
        return state_of(path)[0]
    except ParameterFileError:
        return 0  # deleted since the list was made


def target_of(name: str, folder: Path) -> Path:
    """The file in a folder that a name stands for, taken or not.

    Raises:
        FileNameError: it is no name, or leads out of the folder.
    """
    try:
        target = folder / checked_name(name)
    except FileNameError as error:
        raise FileNameError(f"{error} Use a plain name, with / for subfolders of {folder}.") from error
    if not target.resolve().is_relative_to(folder.resolve()):
        raise FileNameError(f"{name!r} is no name for a parameter file: it leads out of {folder}.")
    return target


@dataclass
class Keeper:
    """The file of one fit, written as soon as there is something to write, and again when there is more.

    Attributes:
        targets: where it is to go, the best first: the next one is taken where a disk refuses. None at all saves nothing.
        taken: whether a name stands for something else already, beside what is there.
        path: where it is, and is written again; None as long as it is nowhere.
        words: what the file says beside its entries.
        problem: why it is not where it was to go.
    """

    targets: Sequence[Path]
    taken: Callable[[Path], bool] | None = None
    path: Path | None = None
    problem: str = ""
    words: ParameterFile = field(default_factory=lambda: ParameterFile(()))

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Save all entries so far. What took minutes is not lost to a disk."""
        content = replace(self.words, entries=tuple(entries))
        if self.path is not None and self._try(lambda path: save_parameters(path, content, overwrite=True), self.path):
            return
        if not any(self._try(lambda path: save_numbered(path, content, self.taken), place) for place in self.targets):
            self.path = None

    def _try(self, write: Callable[[Path], Path], path: Path) -> bool:
        try:
            self.path = write(path)
        except ParameterFileError as error:
            self.problem = self.problem or str(error)
            log.error("D-ODE: the distilled sampler could not be saved: %s", error)
            return False
        return True

    def said(self, otherwise: str = "") -> str:
        """Where the file is, in words. ``otherwise``: where the result still is, if it is in no file."""
        if not self.targets:
            return "Not saved: no name was given."
        if self.path is None:
            return f"NOT SAVED: {self.problem} {otherwise}".rstrip()
        return f"{self.problem} Saved as {self.path} instead." if self.problem else f"Saved as {self.path}"
