"""Workflows for the server: built here node by node, or read from the files that the page writes."""

from typing import Any

Link = list[Any]
Prompt = dict[str, dict[str, Any]]
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_NOTES = {"Note", "MarkdownNote"}


class Graph:
    """A workflow in API format. ``add`` returns the new node's id; ``link`` makes a link to one of its outputs."""

    def __init__(self) -> None:
        self.prompt: Prompt = {}

    def add(self, kind: str, /, **inputs: Any) -> str:
        number = str(len(self.prompt) + 1)
        self.prompt[number] = {"class_type": kind, "inputs": inputs}
        return number

    def save_latent(self, samples: Link, name: str = "test") -> str:
        return self.add("SaveLatent", samples=samples, filename_prefix=name)


def link(node: str, output: int = 0) -> Link:
    return [node, output]


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Convert the page's format to the API's, as the page does when it queues. Flat graphs only."""
    links = {number: (str(source), output) for number, source, output, *_ in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in _NOTES:
            continue
        if node.get("mode", 0) != 0:
            raise ValueError(f"{kind}: muted and bypassed nodes are not supported here.")
        inputs = _widgets(node, object_info[kind])
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                inputs[socket["name"]] = list(links[socket["link"]])
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs}
    return prompt


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Widget values are saved by position, in the order the node declares them."""
    values, found = list(node.get("widgets_values", [])), {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, options = (*info["input"][group][name], {})[:2]
            if (not isinstance(kind, list) and kind not in _WIDGET_TYPES) or options.get("forceInput"):
                continue
            if not values and group == "optional":  # saved before there was such a widget: the page shows its default
                continue
            found[name] = values.pop(0)
            after = options.get("control_after_generate", name in ("seed", "noise_seed"))
            if kind == "INT" and after:
                values.pop(0)
    if values:
        raise ValueError(f"{node['type']}: {len(values)} saved widget values too many: {values}")
    return found
