"""Solvers by name. To add one, write a builder in a family module and register it; the tests pick it up by themselves."""

# Importing a family registers its solvers.
from dode.methods import dpm_solver, exponential, exponential_multistep, multistep, one_step, predictor_corrector  # noqa: F401
from dode.methods.registry import METHODS, Method, Stock, build_tableau, get_method, register, steps_within

__all__ = ["METHODS", "Method", "Stock", "build_tableau", "get_method", "register", "steps_within"]
