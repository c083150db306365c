// The settings of Distill Sampler: the few that all need are in sight, and what has no effect as things stand is dimmed and says why.
import { el } from "./elements.mjs";
import { say } from "./texts.mjs";

const REFINED = ["balanced", "best"]; // modes that choose for themselves what the paper's fit is told
const OPEN = "as in the paper"; // of the inputs teacher and prediction: the fit chooses

/** Why a setting has no effect, by its name; those that have one are not in it. */
function idle(node) {
  const value = (name) => node.widgets.find((widget) => widget.name === name)?.value;
  const connected = (name) => node.isInputConnected(node.findInputSlot(name));
  const refined = REFINED.includes(value("mode"));
  const why = {};
  const add = (reason, ...names) => names.forEach((name) => (why[name] = reason));
  if (refined) add(say("idle_mode", { mode: value("mode") }), "guard", "prediction", "order");
  else add(say("idle_mode", { mode: value("mode") }), "also_steps", "also_cfg");
  if (refined && value("teacher") === OPEN) add(say("idle_teacher"), "teacher_substeps");
  if (node.findInputSlot("sigmas") >= 0 && connected("sigmas")) add(say("idle_sigmas"), "steps", "scheduler");
  return why;
}

function defaultOf(node, name) {
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  const [kind, options] = required?.[name] ?? optional?.[name] ?? [];
  return options?.default ?? (Array.isArray(kind) ? kind[0] : options?.options?.[0]);
}

/**
 * Keep a node's settings in order.
 * @returns {{element: HTMLElement, update: () => void}} what stands below them: which of those out of sight were changed
 */
export function knobs(node) {
  const further = node.widgets.filter((widget) => widget.options?.advanced);
  const tooltips = new Map(node.widgets.map((widget) => [widget, widget.tooltip]));
  const button = el("button", { type: "button", class: "dode-more", onclick: toggle });
  const changed = el("p", { class: "dode-quiet" });
  const element = el("div", { class: "dode-knobs" }, button, changed);

  // The classic renderer leaves gaps where advanced widgets are, so that they are hidden there.
  function putAway() {
    const classic = !LiteGraph.vueNodesMode;
    for (const widget of further) {
      widget.advanced = !classic;
      const hidden = classic && !node.showAdvanced;
      if (Boolean(widget.hidden) !== hidden) widget.hidden = hidden;
    }
    button.textContent = say(node.showAdvanced ? "fewer_settings" : "more_settings");
    button.setAttribute("aria-expanded", String(Boolean(node.showAdvanced)));
  }

  function toggle() {
    node.showAdvanced = !node.showAdvanced;
    update();
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.graph?.setDirtyCanvas?.(true, true);
  }

  function update() {
    const why = idle(node);
    for (const widget of node.widgets) {
      if (!tooltips.has(widget)) continue;
      // What the server will refuse has to be changed first.
      const off = widget.name in why && widget.value === defaultOf(node, widget.name) ? why[widget.name] : null;
      if (Boolean(widget.disabled) !== Boolean(off)) widget.disabled = Boolean(off);
      widget.tooltip = off ?? tooltips.get(widget);
    }
    const own = further.filter((widget) => !widget.disabled && widget.value !== defaultOf(node, widget.name));
    const told = own.length && !node.showAdvanced;
    changed.textContent = told ? say("also_set", { list: own.map((widget) => `${widget.label ?? widget.name} ${widget.value}`).join(say("comma")) }) : "";
    changed.hidden = !told;
    putAway();
  }

  for (const widget of node.widgets) {
    const { name, callback } = widget;
    widget.callback = function () {
      const result = callback?.apply(this, arguments);
      update();
      return result;
    };
    if (name === "teacher" || name === "prediction") {
      const label = widget.options.getOptionLabel ?? ((value) => value ?? "");
      widget.options.getOptionLabel = (value) => (value === OPEN ? say(REFINED.includes(node.widgets.find((each) => each.name === "mode")?.value) ? "as_usual" : "as_in_the_paper") : label(value));
    }
  }
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function () {
    const result = connected?.apply(this, arguments);
    queueMicrotask(update);
    return result;
  };
  putAway();
  node.setSize([node.size[0], node.computeSize()[1]]); // a new one; one of a workflow gets its own size afterwards
  queueMicrotask(update);
  return { element, update };
}
