"""A fit from a user's settings to what came out, and what that is worth."""

import time
from dataclasses import dataclass

from dode.fit.equivalent_steps import StepsSaved

from .equivalent_steps import held_out_samples, measure
from .held_out_ends import Ends, held_out_ends
from .progress import Place
from .run import Keep, Made, run_paper, run_students
from .settings import Settings
from .stopping import stoppable


@dataclass(frozen=True)
class Fitted:
    """What came out.

    Attributes:
        made: the entries, and what they took.
        worth: how many plain steps the first entry is worth; None where that was not measured.
        prompts: how many there were.
        seconds: the whole of it.
        ends: where two held-out samples end; None where nobody can look at them.
    """

    made: Made
    worth: StepsSaved | None
    prompts: int
    seconds: float
    ends: Ends | None = None


def fit(settings: Settings, keep: Keep, place: Place, shown: bool = True) -> Fitted:
    """Fit as the settings say; ``keep`` gets the entries as soon as there are any. ``shown``: somebody will look at what two
    held-out samples become.

    Raises:
        FitError: settings that cannot work. The host's own exceptions pass through, interruption among them.
    """
    settings.check()
    task, made_of, started = settings.task, settings.recipe, time.monotonic()
    if settings.closed_form:
        made = run_paper(task, settings.levels, settings.paper, made_of, keep, place)
        worth = measure(task, made.entries[0], made.progress)
    else:
        with stoppable(place) as asked:
            made = run_students(task, settings.students, made_of, keep, place, asked)
            worth = measure(task, made.entries[0], made.progress, made.judged)
    if shown:
        known = made.judged or worth
        ends = held_out_ends(task, made.entries[0], made.progress, held_out_samples(task, made.judged), known and known.ends)
    else:
        ends = None
        made.progress.finish()
    return Fitted(made, worth, len(settings.prompts), time.monotonic() - started, ends)
