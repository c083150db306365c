// A tab in the page's sidebar: the distilled samplers that one has, what they are for, and what can be done with them.
import { app } from "../../../scripts/app.js";
import { theCheckpoint } from "./checkpoint.mjs";
import { breakable, el, short } from "./elements.mjs";
import { deleteFile, ENDING, exportAddress, importFile, listFiles, refreshLists, renameFile, restoreFile, useFile } from "./files.mjs";
import { problemOf } from "./problems.mjs";
import { reasons } from "./reasons.mjs";
import { say } from "./texts.mjs";

const MARKS = { yes: "✓", perhaps: "≈", no: "✗" };

/** Register it; where the page has no such tabs it says so in the console, and the rest of the pack goes on. */
export function registerLibraryTab() {
  const manager = app.extensionManager;
  if (typeof manager?.registerSidebarTab !== "function") {
    console.info("D-ODE: this page has no sidebar tabs, so that the tab with the distilled samplers is not there.");
    return;
  }
  manager.registerSidebarTab({ id: "dode-library", icon: "pi pi-bolt", title: "D-ODE", tooltip: say("library"), type: "custom", render: show });
}

function show(place) {
  let files = [],
    words = "";
  const list = el("ul", { class: "dode-files" });
  const status = el("p", { class: "dode-quiet", role: "status" });
  const search = el("input", { type: "search", placeholder: say("search"), "aria-label": say("search"), oninput: () => ((words = search.value.toLowerCase()), draw()) });
  const picker = el("input", { type: "file", accept: ENDING, hidden: true, "aria-label": say("choose_file"), onchange: () => take(picker.files) });
  const bring = el("button", { type: "button", class: "dode-button", text: say("import"), onclick: () => picker.click() });
  const outer = el("div", { class: "dode-panel dode-library" }, el("h3", { text: say("library") }), el("div", { class: "dode-actions" }, search, bring, picker), status, list);

  const tell = (text, ...more) => status.replaceChildren(text, ...more);

  /** Do something, say what came of it, and list anew. */
  async function attempt(action, said) {
    try {
      const result = await action();
      await refresh();
      await refreshLists();
      tell(...[said(result)].flat());
    } catch (error) {
      tell(error.message);
    }
  }

  const take = (chosen) => attempt(() => importFile(chosen), (file) => say("imported", { file }));

  function remove(file) {
    attempt(
      () => deleteFile(file.name),
      (undo) => {
        const back = el("button", { type: "button", class: "dode-button", text: say("undo"), onclick: () => attempt(() => restoreFile(undo), (name) => say("brought_back", { file: name })) });
        queueMicrotask(() => back.focus());
        return [`${say("deleted", { file: file.name })} `, back];
      },
    );
  }

  function rename(file, item) {
    const field = el("input", { type: "text", value: file.name.replace(/\.safetensors$/, ""), "aria-label": say("rename") });
    const form = el("form", { class: "dode-actions" }, field, el("button", { type: "submit", text: say("rename") }), el("button", { type: "button", text: say("cancel"), onclick: draw }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => renameFile(file.name, field.value), (name) => say("renamed", { file: name }));
    });
    item.querySelector(".dode-actions").replaceWith(form);
    field.focus();
    field.select();
  }

  function row(file) {
    const entries = file.entries ?? [];
    const first = entries[0];
    const of = (text) => [...new Set(entries.map(text).filter((part) => part !== null && part !== undefined))];
    const gains = entries.filter((entry) => entry.error_base > 0).map((entry) => Math.round(100 * (1 - entry.error_distilled / entry.error_base)));
    const facts = file.error
      ? [problemOf(file)]
      : [
          say("for_model", { model: first?.model.name || first?.model.family || say("any_model") }),
          say("some_steps", { n: of((entry) => entry.steps).join(say("comma")) }),
          of((entry) => entry.guidance).length && say("guidance", { n: of((entry) => entry.guidance).map((n) => short(n)).join(say("comma")) }),
          gains.length && say("closer_by", { n: Math.max(...gains) }),
          file.bytes && say("kilobytes", { n: short(file.bytes / 1024, 2) }),
          file.modified && new Date(1000 * file.modified).toLocaleDateString(),
        ].filter(Boolean);
    const mark = file.fits ? el("span", { class: `dode-mark dode-fits-${file.fits}`, title: reasons(file.why) || say("fits_this"), text: MARKS[file.fits] }) : null;
    const item = el("li", {}, el("div", { class: "dode-file" }, mark, el("strong", {}, breakable(file.name))), el("p", { class: file.error ? "dode-misfit" : "dode-quiet", text: facts.join(" · ") }));
    const actions = [];
    if (!file.error) {
      actions.push(el("button", { type: "button", text: say("use_here"), onclick: () => attempt(() => useFile(file.name), () => say("used", { file: file.name })) }));
      actions.push(el("a", { class: "dode-button", href: exportAddress(file.name), download: file.name.split(/[\\/]/).pop(), text: say("export") }));
    }
    if (file.own) actions.push(el("button", { type: "button", text: say("rename"), onclick: () => rename(file, item) }), el("button", { type: "button", text: say("delete"), onclick: () => remove(file) }));
    item.append(el("div", { class: "dode-actions" }, actions));
    return item;
  }

  function draw() {
    const found = files.filter((file) => JSON.stringify([file.name, file.author, file.notes, file.entries?.map((entry) => [entry.summary, entry.model])]).toLowerCase().includes(words));
    list.replaceChildren(...found.map(row));
    if (!found.length) list.append(el("li", { class: "dode-quiet", text: say(files.length ? "nothing_found" : "nothing_there") }));
  }

  async function refresh() {
    files = (await listFiles(theCheckpoint())).sort((a, b) => (b.modified ?? 0) - (a.modified ?? 0));
    draw();
  }

  const carries = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
  outer.addEventListener("dragover", (event) => carries(event) && (event.preventDefault(), outer.classList.add("dode-drop")));
  outer.addEventListener("dragleave", () => outer.classList.remove("dode-drop"));
  outer.addEventListener("drop", (event) => {
    outer.classList.remove("dode-drop");
    if (!carries(event)) return;
    event.preventDefault();
    event.stopPropagation();
    take([...event.dataTransfer.files]);
  });
  place.replaceChildren(outer);
  refresh().catch((error) => tell(error.message));
}
