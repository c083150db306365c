"""The parameter files that this WebUI knows: its models/dode, the folders of the settings, and the extension's examples."""

from collections.abc import Iterator
from pathlib import Path

from dode.files.library import entries_of, files_in
from dode.files.parameter_file import Entry

from .host import feature, say_once
from .settings import more_folders

EXAMPLES = Path(__file__).resolve().parent.parent / "example_parameters"


def own_folder() -> Path:
    """Where results are saved."""
    return Path(feature("modules.paths_internal").models_path) / "dode"


def files() -> dict[str, Path]:
    """Parameter files by their names."""
    return files_in([own_folder(), *more_folders(), EXAMPLES])


def entries() -> Iterator[tuple[str, Entry]]:
    """All entries of all files that can be read, newest file first."""
    return entries_of(files().items(), say_once)


def is_taken(path: Path) -> bool:
    """Whether a file's name means another file already, in whichever folder."""
    return path.relative_to(own_folder()).as_posix() in files()
