// Load and Inspect: the card of a file, import and download.
import { card, cardOf, downloadLink } from "./card.mjs";
import { addPlace, el } from "./elements.mjs";
import { ENDING, importFile, refreshLists } from "./files.mjs";
import { problem, problemOf } from "./problems.mjs";
import { shareButtons } from "./share.mjs";
import { say } from "./texts.mjs";

export function inspectPanel(node) {
  const place = addPlace(node, "dode_card", 340);
  const panel = {
    kind: "inspected",
    filled: false,
    show(result, index = 0) {
      panel.filled = true;
      place.put(...card(result, index, (i) => panel.show(result, i)));
    },
  };
  place.put(el("p", { class: "dode-quiet", text: say("nothing_inspected") }));
  return panel;
}

export function loadPanel(node) {
  const place = addPlace(node, "dode_card", 340);
  const widget = node.widgets.find((each) => each.name === "file");
  const steps = node.widgets.find((each) => each.name === "steps");
  let shown = null, // what the server says of the chosen file
    ran = null, // what it said when the node ran, with how it fits the model
    chosen = 0,
    asked = null;

  const status = el("p", { class: "dode-quiet", role: "status" });
  const tell = (text, bad = false) => {
    status.textContent = text;
    status.className = bad ? "dode-misfit" : "dode-quiet";
  };
  const picker = el("input", { type: "file", accept: ENDING, hidden: true, "aria-label": say("choose_file"), onchange: () => take(picker.files) });
  const importButton = el("button", { type: "button", class: "dode-button", text: say("import"), onclick: () => picker.click() });

  function draw() {
    const data = ran?.file === widget.value ? { ...shown, entries: ran.entries } : shown;
    const actions = el("div", { class: "dode-actions" }, importButton, picker, shown?.entries ? [downloadLink(widget.value), ...shareButtons(widget.value, Math.min(chosen, shown.entries.length - 1), () => place.element)] : null);
    const body = data?.entries ? card(data, Math.min(chosen, data.entries.length - 1), (i) => ((chosen = i), draw())) : [];
    place.put(...body, data?.error ? el("p", { class: "dode-misfit", role: "alert", text: problemOf(data) }) : null, actions, status);
  }

  async function refresh() {
    const file = widget.value;
    if (!file || asked === file) return;
    asked = file;
    ran = null;
    const answer = await cardOf(file);
    if (asked !== file) return;
    shown = answer;
    const fit = shown.entries?.findIndex((entry) => entry.steps === steps?.value) ?? 0;
    chosen = Math.max(0, fit);
    draw();
  }

  async function take(files) {
    tell(say("importing", { file: files?.[0]?.name ?? "" }));
    let name;
    try {
      name = await importFile(files);
    } catch (error) {
      return tell(error.message, true);
    } finally {
      picker.value = "";
    }
    await refreshLists();
    widget.value = name;
    widget.callback?.(name);
    node.graph?.setDirtyCanvas?.(true, true);
    tell(say("imported", { file: name }));
  }

  const changed = widget.callback;
  widget.callback = function () {
    const result = changed?.apply(this, arguments);
    refresh();
    return result;
  };
  const carries = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
  node.onDragOver = carries;
  node.onDragDrop = async (event) => {
    if (!carries(event)) return false;
    await take([...event.dataTransfer.files]);
    return true;
  };
  draw();
  queueMicrotask(refresh);
  return {
    kind: "loaded",
    get filled() {
      return ran !== null;
    },
    loaded: refresh,
    show(result) {
      if (result.file !== widget.value) return;
      ran = result;
      chosen = 0;
      if (asked === widget.value && shown) draw();
      else refresh().then(() => ((ran = result), draw()));
    },
    failed(detail) {
      if (detail?.exception_message) tell(problem(detail.exception_type, detail.exception_message), true);
    },
  };
}
