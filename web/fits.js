// The list of Load D-ODE Parameters says which files fit the model, and of the others why they do not.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NAMES = ["ckpt_name", "unet_name"]; // widgets in which loaders keep a checkpoint's name
const DEMO = "embedded";

const linkOf = (graph, id) => graph?.links?.get?.(id) ?? graph?.links?.[id] ?? null;

/** The checkpoint that a node loads, or null. */
function loads(node) {
  if (node?.comfyClass === "DODEDemoModel") return DEMO;
  const widget = node?.widgets?.find((each) => NAMES.includes(each.name));
  return typeof widget?.value === "string" ? widget.value : null;
}

/** The checkpoint behind a node's model input: through LoRAs and patches up to the loader. */
function behind(node, seen = new Set()) {
  for (const input of node.inputs ?? []) {
    const link = input.type === "MODEL" && input.link != null ? linkOf(node.graph, input.link) : null;
    const origin = link && node.graph.getNodeById?.(link.origin_id);
    if (!origin || seen.has(origin)) continue;
    seen.add(origin);
    return loads(origin) ?? behind(origin, seen);
  }
  return null;
}

/** The checkpoint that a Load node is about: that of its model, or the only one in the graph. */
export function checkpointOf(node) {
  if (node.inputs?.some((input) => input.type === "MODEL" && input.link != null)) return behind(node);
  const all = new Set((node.graph?.nodes ?? []).map(loads).filter(Boolean));
  return all.size === 1 ? [...all][0] : null;
}

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
    const why = file.error ?? file.why?.[0]; // one is enough to choose another; Load's info says them all
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
    for (const node of (app.rootGraph ?? app.graph)?.nodes ?? []) node.dodeFits?.refresh();
  },
});
