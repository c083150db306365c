"""Help where people look: each node has a page, and its texts in three languages, complete and up to date."""

import json
import re
from typing import Any

import pytest

from tests.comfy.server import ROOT, ComfyServer

LANGUAGES = ("en", "zh", "ja")
SETTINGS = ("dode_ksampler", "dode_generic")
DOCS = ROOT / "web" / "docs"
OWN = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


def texts(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def nodes(comfy: ComfyServer) -> dict[str, Any]:
    return {name: node for name, node in comfy.get("/object_info").items() if name.startswith("DODE")}


def inputs(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: (*spec, {})[1] for name, spec in found.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_every_node_is_there_and_nothing_else(nodes: dict[str, Any], language: str) -> None:
    known = texts(language)
    assert set(known) == set(nodes)
    for name, node in nodes.items():
        assert set(known[name]["inputs"]) == set(inputs(node)), name
        assert set(known[name]["outputs"]) == {str(i) for i in range(len(node["output"]))}, name
        said = [known[name]["display_name"], known[name]["description"]]
        said += [each["tooltip"] for group in ("inputs", "outputs") for each in known[name][group].values()]
        assert all(said), name


def test_english_is_what_the_nodes_say(nodes: dict[str, Any]) -> None:
    for name, known in texts("en").items():
        node = nodes[name]
        assert (known["display_name"], known["description"]) == (node["display_name"], node["description"])
        assert {key: each["tooltip"] for key, each in known["inputs"].items()} == {
            key: options["tooltip"] for key, options in inputs(node).items()
        }
        assert [known["outputs"][str(i)]["tooltip"] for i in range(len(node["output"]))] == node["output_tooltips"]


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_the_other_languages_are_other_languages(language: str) -> None:
    for name, known in texts(language).items():
        said = [known["display_name"], known["description"]]
        for group in ("inputs", "outputs"):
            said += [each["tooltip"] for each in known[group].values()]
        assert all(OWN.search(text) for text in said), name
    for setting in SETTINGS:
        assert all(OWN.search(text) for text in texts(language, "settings")[setting].values())


def test_each_setting_of_the_page_has_its_texts() -> None:
    script = (ROOT / "web" / "dode.js").read_text(encoding="utf-8")
    ids = [found.replace(".", "_") for found in re.findall(r'^ +id: "([\w.]+)"', script, re.MULTILINE)]
    assert ids == list(SETTINGS)
    for language in LANGUAGES:
        assert list(texts(language, "settings")) == ids
    for each in texts("en", "settings").values():
        assert all(f'"{text}"' in script for text in each.values())


def test_the_server_hands_the_texts_out(comfy: ComfyServer) -> None:
    served = comfy.get("/i18n")
    for language in LANGUAGES:
        assert served[language]["nodeDefs"]["DODELoad"] == texts(language)["DODELoad"]
        assert served[language]["settings"] | texts(language, "settings") == served[language]["settings"]


def page(name: str, language: str) -> str:
    """The help page that ComfyUI's page asks for first; where there is none it takes the one beside the folder."""
    return (DOCS / name / f"{language}.md").read_text(encoding="utf-8")


def test_help_pages_are_there_in_each_language_and_for_all_others_in_english(nodes: dict[str, Any]) -> None:
    wanted = {f"{name}/{language}.md" for name in nodes for language in LANGUAGES} | {f"{name}.md" for name in nodes}
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()} == wanted
    for name in nodes:
        others = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert others == page(name, "en"), f"cp web/docs/{name}/en.md web/docs/{name}.md"


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_node_has_a_help_page_that_names_its_inputs(nodes: dict[str, Any], language: str) -> None:
    for name, node in nodes.items():
        text, known = page(name, language), texts(language)[name]
        assert text.startswith(f"# {known['display_name']}\n"), name
        sockets = [(field, known["inputs"][field]) for field in inputs(node)]
        sockets += [(field, known["outputs"][str(i)]) for i, field in enumerate(node["output_name"])]
        for field, its in sockets:
            shown = f"`{field}` {its['name']}" if "name" in its else f"`{field}`"
            assert shown in text, f"{language}: the page of {name} does not say what {shown} is"


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_help_pages_say_the_same_in_other_languages(nodes: dict[str, Any], language: str) -> None:
    for name in nodes:
        text, english = page(name, language), page(name, "en")
        assert all(OWN.search(part) for part in text.split("\n\n")), name
        assert bool(re.search("[\u3040-\u30ff]", text)) == (language == "ja"), name
        for mark in (r"`[^`]+`", r"^#+(?= )", r"^\|(?!-)", r"^- "):  # names and choices; headings, rows, points
            found, wanted = (re.findall(mark, each, re.MULTILINE) for each in (text, english))
            assert set(found) == set(wanted), (name, mark)
            if mark.startswith("^"):
                assert len(found) == len(wanted), (name, mark)
