"""Pictures of all panels in the looks that the other tests leave out, on the newest page."""

from tests.page.checks import pictures
from tests.page.conftest import NEWEST_LOOKS
from tests.page.page import ComfyPage

looks = NEWEST_LOOKS


def test_all_panels(tab: ComfyPage) -> None:
    pictures(tab)
