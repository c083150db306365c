// Which node a result of the server belongs to, and the last results after the page was reloaded.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const HISTORY = 30; // runs to look through; the server forgets them when it ends

const rootGraph = () => app.rootGraph ?? app.graph;

/** The node of an execution id, "7" or "12:7" for node 7 in the subgraph that is node 12. */
export function nodeOfExecution(id) {
  let node,
    graph = rootGraph();
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById?.(/^\d+$/.test(part) ? Number(part) : part);
    graph = node?.subgraph;
  }
  return node ?? null;
}

/** The node of a locator, "7" or the subgraph's uuid and "7". */
export function nodeOfLocator(locator) {
  const [id, uuid] = String(locator).split(":").reverse();
  const graph = uuid ? rootGraph()?.subgraphs?.get?.(uuid) : rootGraph();
  return graph?.getNodeById?.(/^\d+$/.test(id) ? Number(id) : id) ?? null;
}

/** Node ids are the same in many workflows. What names no workflow came from a client without one. */
export function ofThisWorkflow(state) {
  return !state.workflow || state.workflow === rootGraph()?.id;
}

/** Show an output on a node, if it is one of its kind. */
export function give(node, output) {
  const result = output?.dode?.[0];
  if (result && node?.dode?.kind === result.kind) node.dode.show(result);
}

function nodesWithPanels(graph = rootGraph(), found = []) {
  for (const node of graph?.nodes ?? []) {
    if (node.dode) found.push(node);
    if (node.subgraph) nodesWithPanels(node.subgraph, found);
  }
  return found;
}

/** Show what the server still knows of this workflow's runs on the nodes that show nothing yet. */
export async function restore() {
  const empty = () => nodesWithPanels().filter((node) => !node.dode.filled);
  if (!empty().length) return;
  const answer = await api.fetchApi(`/history?max_items=${HISTORY}`);
  if (!answer.ok) return;
  const runs = Object.values(await answer.json()).sort((a, b) => (b.prompt?.[0] ?? 0) - (a.prompt?.[0] ?? 0));
  const here = rootGraph()?.id;
  for (const run of runs) {
    if (run.prompt?.[3]?.extra_pnginfo?.workflow?.id !== here) continue;
    for (const [id, output] of Object.entries(run.outputs ?? {})) {
      const node = nodeOfExecution(id);
      if (node?.dode && !node.dode.filled) give(node, output);
    }
  }
  for (const node of empty()) node.dode.nothing?.();
}
