// What the server says of runs, on the nodes that it is about; and the last results after the page was reloaded.
import { api } from "../../../scripts/api.js";
import { everyNode, nodeOfExecution, ofThisWorkflow } from "./graph.mjs";

const HISTORY = 30; // runs to look through; the server forgets them when it ends
const RUN = "dode_run"; // a node's property: the run whose result it shows

let running = null; // the run that this page has queued and the server has begun

/** Show an output on a node, if it is one of its kind. */
export function give(node, output) {
  const result = output?.dode?.[0];
  if (result && node?.dode?.kind === result.kind) node.dode.show(result);
}

/**
 * Node ids and even the workflow's id are the same in all copies of a template, so that a node keeps which run it is about.
 * It is saved with the workflow, and says nothing of the run.
 */
function remember(node, run) {
  if (node?.dode && run) node.properties[RUN] = run;
}

/** Hear of runs, from when this module is loaded on: after a reload the first news come before the page is set up. */
export function listen(ready) {
  const on = (kind, heard) => api.addEventListener(kind, ({ detail }) => ready() && detail && heard(detail));
  on("execution_start", (detail) => (running = detail.prompt_id));
  on("dode.progress", (detail) => {
    const node = nodeOfExecution(detail.node);
    if (!node?.dode?.progress || !ofThisWorkflow(detail)) return;
    remember(node, running);
    node.dode.progress(detail);
  });
  on("executed", (detail) => {
    if (detail.output?.dode) remember(nodeOfExecution(detail.display_node ?? detail.node), detail.prompt_id);
  });
  for (const kind of ["execution_error", "execution_interrupted"]) on(kind, (detail) => nodeOfExecution(detail.node_id)?.dode?.failed?.(detail));
}

/** Show what the server still knows of their last runs on the nodes that show nothing yet. */
export async function restore() {
  const empty = () => everyNode().filter((node) => node.dode && !node.dode.filled);
  const runs = new Set(empty().map((node) => node.properties[RUN]).filter(Boolean));
  if (runs.size) {
    const answer = await api.fetchApi(`/history?max_items=${HISTORY}`);
    const known = answer.ok ? await answer.json() : {};
    for (const run of runs)
      for (const [id, output] of Object.entries(known[run]?.outputs ?? {})) {
        const node = nodeOfExecution(id);
        if (node?.dode && !node.dode.filled && node.properties[RUN] === run) give(node, output);
      }
  }
  for (const node of empty()) node.dode.nothing?.();
}
