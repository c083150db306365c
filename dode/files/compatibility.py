"""Does a parameter file's entry belong to a model? Compared field by field, and said in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dode.correction import brief
from dode.errors import DodeError
from dode.files.parameter_file import NO_PATCHES, Entry, ModelInfo

_GUIDANCE_TOLERANCE = 0.01


Verdict = Literal["same", "unknown", "soft", "hard"]


@dataclass(frozen=True)
class Compared:
    """One thing that was compared.

    Attributes:
        what: "architecture", "prediction kind", "latent channels", "σ grid", "guidance", "checkpoint name", "fingerprint" or
            "weight patches".
        verdict: "same"; "unknown" where either side does not say; "soft" for a difference with which the parameters may
            still help, or not; "hard" for one with which they make no sense.
        words: what both sides say.
        key: of a difference, which it is, for a page that says it in other languages; "" for what has no other words.
        ours, theirs: what the file says and what the model at hand is.
    """

    what: str
    verdict: Verdict
    words: str
    key: str = ""
    ours: str = ""
    theirs: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.words}"


@dataclass(frozen=True)
class Match:
    """An entry and a model, compared thing by thing. True where the entry may be used."""

    compared: tuple[Compared, ...] = ()

    @property
    def hard(self) -> tuple[str, ...]:
        """Differences with which the parameters make no sense, in words."""
        return tuple(each.words for each in self.compared if each.verdict == "hard")

    @property
    def soft(self) -> tuple[str, ...]:
        """Differences with which they may still help, or not, in words."""
        return tuple(each.words for each in self.compared if each.verdict == "soft")

    @property
    def differences(self) -> tuple[Compared, ...]:
        """Those of both kinds, the hard ones first."""
        return tuple(each for kind in ("hard", "soft") for each in self.compared if each.verdict == kind)

    def __bool__(self) -> bool:
        return not self.hard


def compare(entry: Entry, model: ModelInfo, guidance: float | None = None, sigmas: Sequence[float] | None = None) -> Match:
    """Compare an entry with a model, and where they are known with a guidance scale and noise levels.

    Args:
        model: the model at hand.
        guidance: its classifier-free guidance scale; None where there is no single one.
        sigmas: the noise levels to sample on; None where they are not known yet.
    """
    fitted = entry.model
    family = "" if fitted.family == "None" else fitted.family  # what version 0.1.0 wrote for the host's own checkpoints
    return Match(
        (
            _kind("architecture", "the architecture", family, model.family),
            _kind("prediction kind", "the prediction kind", fitted.prediction, model.prediction),
            _kind("latent channels", "latents with channels", fitted.channels, model.channels),
            _grid(entry, sigmas),
            _guidance(entry, guidance),
            *(_several(entry.fitted_on) if entry.fitted_on else _checkpoint(fitted, model)),
            _patches(_fitted_with(entry), model.patches),
        )
    )


def _kind(what: str, name: str, ours: str | int | None, theirs: str | int | None) -> Compared:
    if not ours or not theirs:
        return Compared(
            what, "unknown", "not said" + (f" in the file; this model has {theirs!r}" if theirs else " of this model")
        )
    if ours == theirs:
        return Compared(what, "same", str(ours))
    key = what.replace(" ", "_")
    return Compared(what, "hard", f"fitted for {name} {ours!r}, this model has {theirs!r}", key, str(ours), str(theirs))


def _grid(entry: Entry, sigmas: Sequence[float] | None) -> Compared:
    steps = len(entry.parameters.sigmas) - 1
    if sigmas is None:
        return Compared("σ grid", "unknown", f"fitted on {brief(entry.parameters.sigmas)}")
    try:
        entry.parameters.tableau(sigmas)
    except DodeError as error:
        return Compared("σ grid", "hard", str(error).rstrip("."))
    taken = len(sigmas) - 1
    return Compared("σ grid", "same", f"all {steps} steps" if taken == steps else f"{taken} of its {steps} steps")


def on_grid(entry: Entry, sigmas: Sequence[float]) -> bool:
    """Whether an entry's parameters can run on these noise levels: its own, or a part of them."""
    return _grid(entry, sigmas).verdict == "same"


def _guidance(entry: Entry, guidance: float | None) -> Compared:
    if entry.guidance is None or guidance is None:
        known = "not said in the file" if entry.guidance is None else f"fitted at {entry.guidance:g}"
        return Compared("guidance", "unknown", known)
    if same_guidance(entry, guidance):
        return Compared("guidance", "same", f"{entry.guidance:g}")
    ours, theirs = f"{entry.guidance:g}", f"{guidance:g}"
    return Compared("guidance", "soft", f"fitted at guidance {ours}, this is {theirs}", "guidance", ours, theirs)


def _checkpoint(fitted: ModelInfo, model: ModelInfo) -> tuple[Compared, Compared]:
    """Name and fingerprint. Where the fingerprints agree the name does not matter."""
    known = bool(fitted.fingerprint and model.fingerprint)
    same_weights = known and fitted.fingerprint == model.fingerprint
    if not fitted.name or not model.name:
        name = Compared("checkpoint name", "unknown", f"fitted on {fitted.name!r}" if fitted.name else "not said in the file")
    elif fitted.name == model.name:
        name = Compared("checkpoint name", "same", fitted.name)
    elif same_weights:
        name = Compared("checkpoint name", "same", f"fitted on {fitted.name!r}, renamed to {model.name!r} since")
    else:
        words = f"fitted on {fitted.name!r}, this is {model.name!r}"
        name = Compared("checkpoint name", "soft", words, "checkpoint_name", fitted.name, model.name)
    if not known:
        which = "the file has none" if not fitted.fingerprint else "this model has none"
        return name, Compared("fingerprint", "unknown", which)
    if same_weights:
        return name, Compared("fingerprint", "same", "the same checkpoint")
    words = "fitted on other weights (the checkpoints' fingerprints differ)"
    return name, Compared("fingerprint", "soft", words, "fingerprint")


def _several(models: Sequence[str]) -> tuple[Compared, Compared]:
    """In place of what is said of a checkpoint."""
    named = ", ".join(models)
    name = Compared("checkpoint name", "soft", f"fitted on several other models together ({named})", "several_models", named)
    return name, Compared("fingerprint", "unknown", "the file has none")


def _fitted_with(entry: Entry) -> str:
    """The weight patches that an entry was fitted with. A file of version 0.2 says in its recipe how many weights had some."""
    return entry.model.patches or (NO_PATCHES if entry.recipe.get("weight_patches") == 0 else "")


def _patches(fitted: str, model: str) -> Compared:
    what = "weight patches"
    if not fitted or not model:
        return Compared(what, "unknown", "not said " + ("in the file" if not fitted else "of this model"))
    if fitted == model:
        return Compared(what, "same", "none" if model == NO_PATCHES else "the same (a LoRA or a merge)")
    which, key = {
        fitted: ("with none, this model has some", "patches_here_only"),
        model: ("with some, this model has none", "patches_there_only"),
    }.get(NO_PATCHES, ("not those here", "patches"))
    return Compared(what, "soft", f"fitted with other weight patches (a LoRA or a merge): {which}", key)


def same_guidance(entry: Entry, guidance: float | None) -> bool:
    """Whether an entry was fitted at this guidance scale. Unknown on either side counts as the same."""
    if entry.guidance is None or guidance is None:
        return True
    return math.isclose(entry.guidance, guidance, rel_tol=_GUIDANCE_TOLERANCE)
