"""The error family. Catch ``DodeError`` to catch them all; each message says what was wrong, which value, and what to do."""


class DodeError(ValueError):
    """Base of every error this package raises on purpose."""


class GridError(DodeError):
    """A σ grid cannot be used: not descending, not finite, too short."""


class MethodError(DodeError):
    """No such solver, or the solver has no such order, coordinate or prediction."""


class TableauError(DodeError):
    """Rows that do not form a consistent solver."""


class ParameterError(DodeError):
    """Distilled parameters that do not belong to the solver or grid they are used with."""


class FitError(DodeError):
    """A distillation that cannot start or cannot go on: bad settings, too few samples."""


class ModelError(DodeError):
    """A denoiser that cannot be loaded, or returned something that is not a denoised batch."""


class NotFiniteError(ModelError):
    """A denoiser that returned NaN or infinity."""


class ParameterFileError(DodeError):
    """A parameter file that cannot be read or written."""


class FileNameError(ParameterFileError):
    """No name that a parameter file can have on every system."""


class FormatError(ParameterFileError):
    """A file that is not a parameter file, or whose content breaks a rule of the format."""


class ForeignFileError(FormatError):
    """A file of other software, or one that is too large to be a parameter file."""


class VersionError(ParameterFileError):
    """A parameter file of a format version this software does not know."""


class FileExistsAlready(ParameterFileError):
    """A file of that name exists and overwriting was not asked for."""


class DependencyError(DodeError):
    """An optional package is needed for this command and is not installed."""
