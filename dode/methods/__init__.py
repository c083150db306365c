"""Solvers by name. To add one, write a builder in a family module and register it; the tests pick it up by themselves."""

from dode.methods import multistep, one_step  # noqa: F401 (importing registers)
from dode.methods.registry import METHODS, Method, build_tableau, get_method, register, steps_within

__all__ = ["METHODS", "Method", "build_tableau", "get_method", "register", "steps_within"]
