import pytest
import torch

from dode.demo.mixture import GaussianMixture, ring


@pytest.fixture(params=["variance exploding", "flow"])
def model(request: pytest.FixtureRequest) -> GaussianMixture:
    """The exact model in both dresses."""
    return ring(flow=request.param == "flow")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
