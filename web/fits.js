// The list of Load D-ODE Parameters says which files fit the model, and of the others why they do not.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { checkpointOf } from "./page/checkpoint.mjs";
import { everyNode } from "./page/graph.mjs";
import { problemOf } from "./page/problems.mjs";
import { reasons } from "./page/reasons.mjs";

function marks(node) {
  const widget = node.widgets?.find((each) => each.name === "file");
  if (!widget?.options) return;
  let asked = null;
  let said = new Map();

  async function ask(checkpoint) {
    asked = checkpoint;
    let files = [];
    if (checkpoint) {
      const answer = await api.fetchApi(`/dode/library?model=${encodeURIComponent(checkpoint)}`);
      files = answer.ok ? (await answer.json()).files : [];
    }
    if (asked !== checkpoint) return;
    said = new Map(files.map((file) => [file.name, file]));
    widget.options = { ...widget.options }; // newer pages draw a closed list anew for other options, not for other labels
    const chosen = widget.value; // older ones for another value
    widget.value = "";
    widget.value = chosen;
    node.graph?.setDirtyCanvas?.(true, true);
  }

  function look() {
    const checkpoint = checkpointOf(node);
    if (checkpoint !== asked) ask(checkpoint).catch((error) => console.error("D-ODE: what fits could not be asked.", error));
  }

  widget.options.getOptionLabel = (value) => {
    look();
    const file = said.get(value);
    if (!file?.fits) return value ?? "";
    const why = problemOf(file) ?? reasons(file.why?.slice(0, 1)); // one is enough to choose another; Load's info says them all
    return file.fits === "yes" ? `✓ ${value}` : `${file.fits === "no" ? "✗" : "≈"} ${value} (${why})`;
  };
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function () {
    const result = connected?.apply(this, arguments);
    queueMicrotask(look);
    return result;
  };
  node.dodeFits = { look, refresh: () => ((asked = undefined), look()) };
}

app.registerExtension({
  name: "dode.fits",
  nodeCreated(node) {
    if (node.constructor.comfyClass === "DODELoad") marks(node);
  },
  loadedGraphNode: (node) => queueMicrotask(() => node.dodeFits?.look()),
  refreshComboInNodes() {
    for (const node of everyNode()) node.dodeFits?.refresh();
  },
});
