"""Which parameters belong to a model, a guidance scale and a grid; and what lies between two scales."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dode import Entry, ModelInfo, Parameters
from dode.errors import ParameterError
from dode.files.choice import Part, choose
from dode.files.compatibility import compare
from dode.files.interpolation import interpolate
from tests.page_texts import page_texts

MODEL = ModelInfo("a model", "UNet", "eps", 4)


def entry(scale: float | None, top: float = 10.0, value: float = 0.0, told: bool = False, **changes: Any) -> Entry:
    sigmas = (top, top / 4, top / 16, 0.0)
    wanted: dict[str, Any] = {
        "method": "euler",
        "order": 1,
        "directions": "data",
        "sigmas": sigmas,
        "values": np.array([[0.0], [value], [-value]]),
        "guidance": None if scale == 1 else np.full((3, 1), 2 * value),
        "model_sigmas": tuple(0.5 * sigma for sigma in sigmas[:-1]) if told else None,
    }
    return Entry(Parameters(**{**wanted, **changes}), MODEL, scale)


def named(*entries: Entry, name: str = "file") -> list[tuple[str, Entry]]:
    return [(name, one) for one in entries]


def test_between_two_scales_all_numbers_are_blended() -> None:
    below, above = entry(3.0, 10.0, 0.1, told=True), entry(6.0, 80.0, 0.4, told=True)
    found = interpolate([entry(9.0, 10.0, 0.9, told=True), above, below], 4.0)
    assert (found.guidance, found.report, found.model) == (4.0, None, MODEL)
    assert found.parameters.model_sigmas is not None
    assert found.parameters.guidance is not None
    np.testing.assert_allclose(found.parameters.sigmas, np.array([20.0, 5.0, 1.25, 0.0]))
    np.testing.assert_allclose(found.parameters.model_sigmas, np.array([10.0, 2.5, 0.625]))
    np.testing.assert_allclose(found.parameters.values[:, 0], [0.0, 0.2, -0.2])
    np.testing.assert_allclose(found.parameters.guidance, np.full((3, 1), 0.4))
    assert found.parameters.sigmas[-1] == 0


def test_a_blend_says_in_its_recipe_what_it_is_one_of() -> None:
    below, above = (replace(entry(scale), recipe={"tool": "a tool"}) for scale in (3.0, 6.0))
    assert interpolate([below, above], 4.0).recipe == {"tool": "a tool", "interpolated_between": (3.0, 6.0)}
    assert interpolate([below, above], 3.0).recipe == {"tool": "a tool"}
    assert interpolate([entry(3.0), entry(6.0)], 4.0).recipe == {}


def test_a_fitted_scale_is_returned_as_it_is() -> None:
    entries = [entry(3.0), entry(6.0), entry(6.02)]
    assert interpolate(entries, 6.0) is entries[1]
    assert interpolate(entries, 6.02) is entries[2]
    assert interpolate(entries, None) is entries[0]
    unknown = entry(None)
    assert interpolate([unknown], 5.0) is unknown


@pytest.mark.parametrize(
    ("entries", "scale", "says"),
    [
        ([entry(3.0), entry(6.0)], 8.0, "at guidance 3 to 6, this is 8"),
        ([entry(3.0), entry(6.0)], 2.0, "at guidance 3 to 6, this is 2"),
        ([entry(3.0)], 2.0, "at guidance 3, this is 2"),
        ([entry(1.0), entry(3.0)], 2.0, "of different kinds"),
        ([entry(2.0), entry(3.0, method="ipndm", order=4)], 2.5, "of different kinds"),
        ([entry(2.0), replace(entry(3.0), model=replace(MODEL, name="other"))], 2.5, "of different kinds"),
        ([], None, "no parameters"),
    ],
)
def test_outside_of_what_was_fitted_it_refuses(entries: list[Entry], scale: float | None, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        interpolate(entries, scale)


def test_without_a_guidance_channel_scale_one_is_a_scale_like_any() -> None:
    found = interpolate([entry(1.0, value=0.1), entry(3.0, value=0.3, guidance=None)], 2.0)
    np.testing.assert_allclose(found.parameters.values[:, 0], [0.0, 0.2, -0.2])


def test_what_one_of_two_lacks_is_zero_there() -> None:
    plain = entry(2.0, guidance=None)
    rich = entry(4.0, value=0.4, told=True, values=np.array([[0.0, 0.0], [0.4, 0.0], [0.4, 0.2]]))
    found = interpolate([plain, rich], 3.0).parameters
    np.testing.assert_allclose(found.values, [[0.0, 0.0], [0.2, 0.0], [0.2, 0.1]])
    assert found.guidance is not None
    np.testing.assert_allclose(found.guidance, np.full((3, 1), 0.4))
    assert found.model_sigmas is not None
    np.testing.assert_allclose(found.model_sigmas, np.sqrt(0.5) * np.array(found.sigmas[:-1]))


def test_choose_takes_the_scale_and_the_grid() -> None:
    three, six = entry(3.0, 10.0, 0.1), entry(6.0, 20.0, 0.4)
    there = named(three, six)
    for one in (three, six):
        grid = one.parameters.sigmas
        found = choose(there, MODEL, one.guidance, grid)
        assert (found.entry, found.own_grid, found.name, found.sigmas) == (one, False, "file", grid)
        assert choose(there, MODEL, one.guidance, grid[1:]).entry is one


def test_levels_of_any_entry_stand_for_those_of_the_best() -> None:
    three, six = entry(3.0, 10.0, 0.1), entry(6.0, 20.0, 0.4)
    other = replace(six, model=replace(MODEL, family="DiT"))
    own = six.parameters.sigmas
    for there in (named(three, six), named(three) + named(six, name="another"), named(other) + named(six, name="another")):
        given = there[0][1].parameters.sigmas
        found = choose(there, MODEL, 6.0, given)
        assert (found.entry, found.own_grid, found.sigmas) == (six, given != own, own)
        for part in (slice(0, 3), slice(1, 4), slice(1, 3), slice(2, 4)):
            found = choose(there, MODEL, 6.0, given[part])
            assert (found.entry, found.sigmas) == (six, own[part])
    there = named(three, six)
    between = choose(there, MODEL, 4.5, three.parameters.sigmas[1:])
    assert between.own_grid
    assert between.entry is not None
    assert (between.entry.guidance, between.sigmas) == (4.5, between.entry.parameters.sigmas[1:])
    on_its_own = choose(there, MODEL, 4.5, between.entry.parameters.sigmas)
    assert (on_its_own.own_grid, on_its_own.entry is None) == (False, False)
    for scale, sigmas in ((6.0, (9.0, 2.0, 0.5, 0.0)), (8.0, three.parameters.sigmas)):
        assert choose(there, MODEL, scale, sigmas).entry is None


def test_levels_that_were_handed_out_count_where_their_file_is_gone() -> None:
    mine, gone = entry(3.0, 10.0), (9.0, 2.0, 0.5, 0.0)
    assert choose(named(mine), MODEL, 3.0, gone).entry is None
    found = choose(named(mine), MODEL, 3.0, gone[1:], handed=[gone])
    assert (found.entry, found.sigmas) == (mine, mine.parameters.sigmas[1:])
    assert found.part == Part(3, 1, 3)
    nothing = choose(named(mine), MODEL, 5.0, gone[1:], handed=[gone])
    assert (nothing.entry, nothing.foreign, nothing.part) == (None, True, Part(3, 1, 3))
    assert not choose(named(mine), MODEL, 5.0, mine.parameters.sigmas, handed=[mine.parameters.sigmas]).foreign


def test_levels_that_do_not_reach_0_stand_for_none_that_do() -> None:
    short = entry(6.0, sigmas=(8.0, 4.0, 2.0, 1.0))
    mine = entry(3.0)
    assert choose(named(short, mine), MODEL, 3.0, short.parameters.sigmas).entry is None
    assert choose(named(short, mine), MODEL, 3.0, short.parameters.sigmas[:3]).entry is mine
    assert choose(named(short, mine), MODEL, 6.0, mine.parameters.sigmas).entry is None


def test_an_end_that_was_put_to_0_is_said() -> None:
    mine = entry(3.0)
    forced = (*mine.parameters.sigmas[:2], 0.0)
    found = choose(named(mine), MODEL, 3.0, forced)
    assert (found.entry, found.part) == (None, Part(3, 0, 2, forced=True))
    assert found.part is not None
    assert found.part.of((8.0, 4.0, 2.0, 0.0)) == (8.0, 4.0, 0.0)
    assert "put to 0" in found.reasons[0]


def test_what_starts_far_away_is_not_taken_for_others_levels() -> None:
    """The same kind of model with another range of noise levels, as zero terminal SNR has."""
    near, far = entry(3.0, 10.0), entry(6.0, 4000.0)
    for largest, wanted in ((4500.0, far), (14.6, None), (None, far)):
        assert choose(named(near, far), MODEL, 6.0, near.parameters.sigmas, largest=largest).entry is wanted


def test_without_both_outputs_of_guidance_none_is_taken_that_weighs_them() -> None:
    weighing, plain = entry(3.0, value=0.1), entry(3.0, guidance=None)
    there = named(weighing) + named(plain, name="plain")
    assert choose(there, MODEL, None, plain.parameters.sigmas).entry is weighing
    assert choose(there, MODEL, None, plain.parameters.sigmas, both=False).entry is plain
    assert "weighs both outputs" in choose(there[:1], MODEL, None, plain.parameters.sigmas, both=False).reasons[0]


def test_what_cannot_run_on_a_part_is_passed_over() -> None:
    whole = entry(3.0, method="dpm_2_singlestep", order=2, values=np.zeros((3, 1)), guidance=None)
    mine = entry(3.0)
    there = named(whole) + named(mine, name="mine")
    assert choose(there, MODEL, 3.0, mine.parameters.sigmas).entry is whole
    assert choose(there, MODEL, 3.0, mine.parameters.sigmas[1:]).entry is mine
    assert "cannot run here" in choose(there[:1], MODEL, 3.0, mine.parameters.sigmas[1:]).reasons[0]


def test_choose_says_why_not() -> None:
    there = named(entry(3.0), name="a") + named(replace(entry(6.0), model=replace(MODEL, family="DiT")), name="b")
    kind = "b: is for another kind of model (fitted for the architecture 'DiT', this model has 'UNet')"
    assert choose(there, MODEL, 5.0, (9.0, 1.0, 0.0)).reasons == ("a: was fitted at guidance 3", kind)
    assert choose(there, MODEL, 3.0, (9.0, 1.0, 0.0)).reasons == ("a: has 3 steps, not 2", kind)
    many = [pair for number in range(5) for pair in named(entry(3.0), name=str(number))]
    assert choose(many, MODEL, 5.0, (9.0, 1.0, 0.0)).reasons == ("0, 1, 2 and 2 more: was fitted at guidance 3",)


def test_another_checkpoint_of_the_kind_is_second_best() -> None:
    other = replace(entry(3.0), model=replace(MODEL, name="other"))
    mine = entry(3.0)
    assert choose(named(other), MODEL, 3.0, mine.parameters.sigmas).entry is other
    assert choose(named(other) + named(mine, name="mine"), MODEL, 3.0, mine.parameters.sigmas).entry is mine


FITTED = ModelInfo("a.safetensors", "SDXL", "eps", 4, "blocks-1", "none")


def verdicts(model: ModelInfo, guidance: float | None = 3.0, sigmas: Any = (10.0, 2.5, 0.625, 0.0)) -> dict[str, str]:
    match = compare(replace(entry(3.0), model=FITTED), model, guidance, sigmas)
    assert [each.what for each in match.compared] == [
        "architecture", "prediction kind", "latent channels", "σ grid", "guidance", "checkpoint name", "fingerprint",
        "weight patches"
    ]  # fmt: skip
    assert all(each.words for each in match.compared)
    assert set(match.hard) == {each.words for each in match.compared if each.verdict == "hard"}
    assert bool(match) == (not match.hard)
    return {each.what: each.verdict for each in match.compared}


def test_each_thing_is_compared_by_itself() -> None:
    agreed = dict.fromkeys(verdicts(FITTED), "same")
    assert verdicts(FITTED) == agreed
    for what, changes, verdict in (
        ("architecture", {"family": "Flux"}, "hard"),
        ("prediction kind", {"prediction": "v"}, "hard"),
        ("latent channels", {"channels": 16}, "hard"),
        ("architecture", {"family": ""}, "unknown"),
        ("prediction kind", {"prediction": ""}, "unknown"),
        ("latent channels", {"channels": None}, "unknown"),
        ("fingerprint", {"fingerprint": "blocks-2"}, "soft"),
        ("fingerprint", {"fingerprint": ""}, "unknown"),
        ("checkpoint name", {"name": ""}, "unknown"),
        ("weight patches", {"patches": "a LoRA"}, "soft"),
        ("weight patches", {"patches": ""}, "unknown"),
    ):
        assert verdicts(replace(FITTED, **changes)) == {**agreed, what: verdict}, what
    assert verdicts(FITTED, guidance=5.0) == {**agreed, "guidance": "soft"}
    assert verdicts(FITTED, guidance=None) == {**agreed, "guidance": "unknown"}
    assert verdicts(FITTED, sigmas=(9.0, 1.0, 0.0)) == {**agreed, "σ grid": "hard"}
    assert verdicts(FITTED, sigmas=(2.5, 0.625, 0.0)) == agreed
    assert verdicts(FITTED, sigmas=None) == {**agreed, "σ grid": "unknown"}


def test_the_page_has_words_for_every_difference_in_each_of_its_languages() -> None:
    """Models are compared that differ in one thing each: whatever a key says, there is nothing beside it."""
    some, other = replace(entry(3.0), model=replace(FITTED, patches="a LoRA")), replace(FITTED, name="b.safetensors")
    several = replace(some, recipe={"models": ("one", "two")})
    models = [replace(other, family="Flux"), replace(other, prediction="v"), replace(other, channels=16), FITTED]
    models += [replace(other, fingerprint="blocks-2"), replace(FITTED, patches="another LoRA")]
    fitted = (some, replace(some, model=FITTED), several)
    found = [each for one in fitted for model in models for each in compare(one, model, 5.0).differences]
    for language in ("zh", "ja"):
        texts = page_texts("reasons.mjs", language)
        assert set(texts) == {each.key for each in found}
        for each in found:
            for name in re.findall(r"\{(\w+)\}", texts[each.key]):
                assert str(getattr(each, name)) in each.words
                assert getattr(each, name)


def test_a_renamed_checkpoint_keeps_its_parameters() -> None:
    renamed = replace(FITTED, name="b.safetensors")
    match = compare(replace(entry(3.0), model=FITTED), renamed)
    assert (match.hard, match.soft) == ((), ())
    assert "checkpoint name: fitted on 'a.safetensors', renamed to 'b.safetensors' since" in map(str, match.compared)
    unknown = compare(replace(entry(3.0), model=FITTED), replace(renamed, fingerprint=""))
    assert unknown.soft == ("fitted on 'a.safetensors', this is 'b.safetensors'",)

    mine = replace(entry(3.0), model=FITTED)
    another = replace(entry(3.0), model=replace(FITTED, name="b.safetensors", fingerprint="blocks-2"))
    there = named(another, name="other weights of that name") + named(mine, name="mine")
    assert choose(there, renamed, 3.0, mine.parameters.sigmas).name == "mine"


def test_an_architecture_that_old_software_did_not_know_is_unknown() -> None:
    old = replace(entry(3.0), model=replace(FITTED, family="None"))
    assert compare(old, FITTED).compared[0].verdict == "unknown"


def test_what_differs_is_said_in_words() -> None:
    match = compare(replace(entry(3.0), model=FITTED), ModelInfo("c", "Flux", "flow", 16, "blocks-3"), 1.0, (5.0, 0.0))
    said = "; ".join((*match.hard, *match.soft))
    for words in (
        "architecture 'SDXL', this model has 'Flux'",
        "prediction kind 'eps', this model has 'flow'",
        "channels 4, this model has 16",
        "3-step grid [10, 2.5, 0.625, 0]; [5, 0] is no part",
        "guidance 3, this is 1",
        "'a.safetensors', this is 'c'",
        "other weights",
    ):
        assert words in said
