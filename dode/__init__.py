"""Distilled ODE samplers for diffusion models, in pure PyTorch.

The public face: build a solver's table, sample with it, distill it on a model, save and load the result. A model is a denoiser
in k-diffusion's convention, ``denoiser(x, sigma, **extra_args)`` with sigma of shape (B,), returning an estimate of x0.
"""

__version__ = "0.1.0"
