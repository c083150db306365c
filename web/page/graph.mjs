// Nodes of the workflow that is open, by the ids that the server and the host have for them.
import { app } from "../../../scripts/app.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

/** All nodes of the workflow, those in a subgraph once, however often it is used. */
export function everyNode(graph = rootGraph(), seen = new Set()) {
  if (!graph || seen.has(graph)) return [];
  seen.add(graph);
  return (graph.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? everyNode(node.subgraph, seen) : [])]);
}

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
