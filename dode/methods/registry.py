"""The registry of solvers: what a solver must say of itself, and the one function that builds its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dode.coordinate import COORDINATES
from dode.errors import MethodError
from dode.methods.refused import refusal
from dode.tableau import Array, Directions, Tableau, check_sigmas

Builder = Callable[..., Tableau]


@dataclass(frozen=True)
class Stock:
    """A sampler of another package that a method reproduces; the golden tests run the two against each other.

    Attributes:
        function: ``"module:name"``.
        options: the keywords to call it with, by order.
        orders: the orders at which the two agree; all of the method's if empty.
        coordinates: the models on which the two agree.
        bound: how closely the two agree in float64, relative; more than the usual where stock's own arithmetic loses digits.
        fewest_steps: with fewer it does not work.
        most_steps: with more, a final one to σ = 0 aside, it does not work; by order.
    """

    function: str
    options: Callable[[int], Mapping[str, Any]] = lambda order: {}
    orders: tuple[int, ...] = ()
    coordinates: tuple[str, ...] = ("log_sigma", "flow")
    bound: float = 1e-9
    fewest_steps: int = 1
    most_steps: Callable[[int], float] = lambda order: float("inf")


def comfyui(name: str, **fields: Any) -> Stock:
    """A sampler of ComfyUI's k_diffusion.sampling."""
    return Stock(f"comfy.k_diffusion.sampling:{name}", **fields)


def k_diffusion(name: str, **fields: Any) -> Stock:
    """A sampler of the package k-diffusion."""
    return Stock(f"k_diffusion.sampling:{name}", **fields)


@dataclass(frozen=True)
class Method:
    """A solver that can be built on any grid.

    Attributes:
        name: the stock name in ComfyUI's sampler list; for the deterministic limit of an ancestral sampler, without that word.
        build: ``build(sigmas (n+1,) float64, order, coordinate) -> Tableau``; a solver that has but one order, or the same
            coordinate on every model, does not look at the last two.
        convergence: for each order the method offers, the order of convergence observed on a smooth grid (start-up steps
            of lower order included).
        default_order: the order used when none is asked for.
        directions: the paper's form of D-ODE for it: differences of denoised ("data") or noise ("noise") outputs, or of the
            combinations that successive rows make of the latter ("slopes").
        teacher: the paper's teacher for it, the name of a method; where the paper has none, the method itself.
        source: paper, and the stock function whose behaviour it reproduces, with every deviation.
        stock: those functions, for the tests.
        aliases: other names.
    """

    name: str
    build: Builder
    convergence: dict[int, int]
    default_order: int
    directions: Directions
    teacher: str
    source: str
    stock: tuple[Stock, ...] = ()
    aliases: tuple[str, ...] = ()


METHODS: dict[str, Method] = {}
_NAMES: dict[str, Method] = {}


def register(
    name: str,
    *,
    convergence: dict[int, int],
    source: str,
    default_order: int | None = None,
    directions: Directions = "data",
    teacher: str | None = None,
    stock: tuple[Stock, ...] = (),
    aliases: tuple[str, ...] = (),
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder under a name. The fields are those of ``Method``; the default order is the highest one, the
    default teacher the solver itself."""

    def enter(build: Builder) -> Builder:
        chosen = max(convergence) if default_order is None else default_order
        method = Method(name, build, convergence, chosen, directions, teacher or name, source, stock, aliases)
        for each in (name, *aliases):
            if each in _NAMES:
                raise MethodError(f"A method named {each!r} is registered already.")
            _NAMES[each] = method
        METHODS[name] = method
        return build

    return enter


def get_method(name: str) -> Method:
    """Look a solver up by its name or alias, in any case, as k-diffusion's function or as the paper's D- version of it.

    Raises:
        MethodError: no such solver; the message says why a known sampler is none, or lists those there are.

    Example:
        >>> get_method("D-DPM-Solver-2").name, get_method("sample_dpmpp_2m").name, get_method("PNDM").name
        ('dpm_2_singlestep', 'dpmpp_2m', 'ipndm')
    """
    plain = name.casefold().replace("-", "_").removeprefix("sample_")
    for each in (name, plain, plain.removeprefix("d_")):
        if each in _NAMES:
            return _NAMES[each]
    reason = refusal(plain)
    if reason:
        raise MethodError(f"{name!r} cannot be distilled: {reason}")
    raise MethodError(f"Unknown solver {name!r}. Choose one of: {', '.join(sorted(_NAMES))}.")


def build_tableau(
    method: str, sigmas: Sequence[float] | Array, order: int | None = None, coordinate: str = "log_sigma"
) -> Tableau:
    """Build a solver's table on a grid.

    Args:
        method: name or alias of a registered solver.
        sigmas: noise levels (n+1,), strictly descending, last may be 0. Coefficients are computed in float64.
        order: for solvers that come in several orders; the method's default otherwise.
        coordinate: the half log-SNR of the model's schedule, for the solvers that ask for it: "log_sigma" for eps, v and EDM
            models, "flow" for flow matching.

    Raises:
        GridError: unusable sigmas. MethodError: unknown solver, order or coordinate.

    Example:
        >>> build_tableau("ddim", [10.0, 3.0, 0.0]).evaluations
        2
    """
    entry = get_method(method)
    chosen = entry.default_order if order is None else order
    if chosen not in entry.convergence:
        raise MethodError(
            f"Solver {entry.name!r} has no order {order!r}. Choose one of: {', '.join(map(str, entry.convergence))}."
        )
    if coordinate not in COORDINATES:
        raise MethodError(f"Unknown coordinate {coordinate!r}. Choose one of: {', '.join(COORDINATES)}.")
    return entry.build(check_sigmas(sigmas), chosen, coordinate)


def steps_within(method: str, evaluations: int, order: int | None = None) -> int:
    """The most steps, on a grid that ends at σ = 0, that stay within a number of function evaluations; 0 if none does.

    Raises:
        MethodError: unknown solver or order.

    Example:
        >>> steps_within("heun", 7)
        4
    """
    steps = 0
    while steps < evaluations:
        grid = [float(steps + 1 - i) for i in range(steps + 2)]
        if build_tableau(method, grid, order).evaluations > evaluations:
            break
        steps += 1
    return steps
