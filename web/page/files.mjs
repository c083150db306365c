// The library's files: what the server lists, and what it is asked to do with them.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { rootGraph } from "./graph.mjs";
import { problemOf } from "./problems.mjs";
import { say } from "./texts.mjs";

const MOST_BYTES = 2 * 1024 * 1024; // the server checks it too
export const ENDING = ".safetensors";

/** What the server answers; an Error with its words where it refuses. */
async function asked(path, options) {
  const answer = await api.fetchApi(path, options);
  const result = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(problemOf(result) ?? answer.statusText);
  return result;
}

const post = (path, fields) => asked(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) });

export const listFiles = async (checkpoint) => (await asked(`/dode/library?model=${encodeURIComponent(checkpoint ?? "")}`)).files;
export const renameFile = async (name, to) => (await post("/dode/rename", { name, to })).file;
export const deleteFile = async (name) => (await post("/dode/delete", { name })).undo;
export const restoreFile = async (undo) => (await post("/dode/restore", { undo })).file;
export const exportAddress = (name) => api.apiURL(`/dode/download?name=${encodeURIComponent(name)}`);

/** Import one dropped or chosen file; returns its name in the library. */
export async function importFile(files) {
  const [file] = files ?? [];
  if (files?.length !== 1 || !file.name.endsWith(ENDING) || file.size > MOST_BYTES) throw new Error(say("drop_one"));
  const headers = { "Content-Type": "application/octet-stream" };
  const { file: name } = await asked(`/dode/import?name=${encodeURIComponent(file.name)}`, { method: "POST", headers, body: await file.arrayBuffer() });
  return name;
}

/** Let every list of files on the page have what is there now. */
export const refreshLists = () => app.refreshComboInNodes();

/** Choose a file in a Load node: the selected one, the only one of the graph in view, or a new one in the middle of the view. */
export async function useFile(name) {
  await refreshLists();
  const graph = app.canvas.graph ?? rootGraph();
  const all = graph.nodes.filter((node) => node.comfyClass === "DODELoad");
  const selected = all.filter((node) => app.canvas.selectedItems?.has(node));
  let node = selected.length === 1 ? selected[0] : all.length === 1 ? all[0] : null;
  if (!node) {
    node = LiteGraph.createNode("DODELoad");
    const { ds, canvas } = app.canvas;
    const area = canvas.getBoundingClientRect();
    node.pos = [0, 1].map((i) => (i ? area.height : area.width) / 2 / ds.scale - ds.offset[i] - node.size[i] / 2);
    graph.add(node);
  }
  const widget = node.widgets.find((each) => each.name === "file");
  widget.value = name;
  widget.callback?.(name);
  app.canvas.setDirty?.(true, true);
  return node;
}
