"""Names of parameter files that every system can keep."""

from dode.errors import FileNameError

SUFFIX = ".safetensors"
_MAX_NAME = 120
_FORBIDDEN = set('<>:"|?*\\')
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def checked_name(text: str) -> str:
    """A name that a person typed, with / between folders, as a file's name with its suffix, once.

    What one system keeps and another does not is refused on all, since files are shared and folders move.

    Raises:
        FileNameError: it is no name; the message says why.

    Example:
        >>> checked_name("mine/a.safetensors.safetensors")
        'mine/a.safetensors'
    """
    stem = text.strip()
    while stem.lower().endswith(SUFFIX):
        stem = stem[: -len(SUFFIX)]
    problem = next(filter(None, map(_problem, stem.split("/"))), "" if len(stem) <= _MAX_NAME else "it is too long")
    if problem:
        raise FileNameError(f"{text[:200]!r} is no name for a parameter file: {problem}.")
    return stem + SUFFIX


def _problem(part: str) -> str:
    """What is wrong with a folder's or a file's name, or nothing."""
    odd = sorted({c for c in part if c in _FORBIDDEN or ord(c) < 32 or ord(c) == 127})
    if not part:
        return "a part of it is empty"
    if "\\" in odd:
        return "\\ is no letter of a name on every system; write / for subfolders"
    if odd:
        return f"{odd[0]!r} is not allowed in a name on every system"
    if part.startswith("."):
        return "a part of it starts with a dot"
    if part != part.strip() or part.endswith("."):
        return f"{part!r} starts or ends in a blank or a dot, which not every system keeps"
    if part.split(".")[0].strip().lower() in _DEVICES:
        return f"{part!r} is the name of a device on Windows"
    return ""
