// The pack's part of ComfyUI's page: settings, and panels on its nodes. Everything goes through the extension API.
import { app } from "../../scripts/app.js";
import { comparePanel } from "./page/compare.mjs";
import { distillPanel } from "./page/distill.mjs";
import { inspectPanel, loadPanel } from "./page/load.mjs";
import { everyNode, nodeOfLocator } from "./page/graph.mjs";
import { give, listen, restore } from "./page/results.mjs";
import { registerLibraryTab } from "./page/sidebar.mjs";

const PANELS = { DODEDistillSampler: distillPanel, DODELoad: loadPanel, DODEInspect: inspectPanel, DODECompare: comparePanel };

const sheet = document.createElement("link");
sheet.rel = "stylesheet";
sheet.href = new URL("page/dode.css", import.meta.url).href;
document.head.append(sheet);

let isSetUp = false; // before, there is no workflow to ask for nodes
listen(() => isSetUp);

app.registerExtension({
  name: "dode",
  settings: [
    {
      id: "dode.ksampler",
      name: "Offer `dode` in KSampler's sampler and scheduler lists",
      category: ["D-ODE", "KSampler", "dode"],
      tooltip:
        "The sampler `dode` finds the saved parameters that fit the model, steps and guidance by itself. A change counts after ComfyUI has been restarted.",
      type: "boolean",
      defaultValue: true,
    },
    {
      id: "dode.generic",
      name: "`dode` takes a file for any model where a model has none of its own",
      category: ["D-ODE", "KSampler", "generic"],
      tooltip:
        "Such a file was fitted on several other models together. It is often closer to many steps than a plain sampler, and not always; the console names it whenever it is used.",
      type: "boolean",
      defaultValue: false,
    },
  ],
  setup() {
    isSetUp = true;
    registerLibraryTab();
    app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", () => requestAnimationFrame(() => everyNode().forEach((node) => node.dode?.rendered?.())));
  },
  nodeCreated(node) {
    const panel = PANELS[node.constructor.comfyClass];
    if (!panel) return;
    node.dode = panel(node);
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      give(node, output);
    };
  },
  loadedGraphNode: (node) => node.dode?.loaded?.(),
  afterConfigureGraph() {
    restore().catch((error) => console.error("D-ODE: the last results could not be fetched.", error)); // nobody waits for it
  },
  // Another workflow tab comes to the front with the outputs it had.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) give(nodeOfLocator(locator), output);
  },
});
