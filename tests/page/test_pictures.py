"""Pictures of all panels in the looks that the other tests leave out."""

import pytest

from tests.page.checks import pictures
from tests.page.conftest import OTHER_LOOKS, Look
from tests.page.page import ComfyPage


@pytest.fixture(scope="module", params=OTHER_LOOKS, ids=lambda look: look.name)
def look(request: pytest.FixtureRequest) -> Look:
    return request.param


def test_all_panels(tab: ComfyPage) -> None:
    pictures(tab)
