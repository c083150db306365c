// Which checkpoint a node's model comes from: up its links, through LoRAs and patches, into subgraphs and out of them.
import { everyNode } from "./graph.mjs";

const NAMES = ["ckpt_name", "unet_name"]; // widgets in which loaders keep a checkpoint's name
const DEMO = "embedded";

// A subgraph's node answers getInputLink with what lies inside it, so that the plain node's method is asked.
const linkInto = (node, slot) => LiteGraph.LGraphNode.prototype.getInputLink.call(node, slot) ?? null;

/** The one value of these that is not null; null where they disagree. */
function agreed(values) {
  const all = new Set(values.filter((value) => value !== null));
  return all.size === 1 ? [...all][0] : null;
}

/** The checkpoint that a node loads, or null. */
function loads(node) {
  if (node?.comfyClass === "DODEDemoModel") return DEMO;
  const widget = node?.widgets?.find((each) => NAMES.includes(each.name));
  return typeof widget?.value === "string" ? widget.value : null;
}

function behindLink(graph, link, seen) {
  if (graph.inputNode && link.origin_id === graph.inputNode.id) {
    const around = everyNode().filter((node) => node.subgraph === graph);
    return agreed(around.map((node) => behindSlot(node, link.origin_slot, seen)));
  }
  const origin = graph.getNodeById?.(link.origin_id);
  if (!origin || seen.has(origin)) return null;
  const further = new Set([...seen, origin]);
  if (!origin.subgraph) return loads(origin) ?? behind(origin, further);
  if (!origin.subgraph.outputs?.[link.origin_slot]?.linkIds?.length) return null;
  const inside = origin.resolveSubgraphOutputLink?.(link.origin_slot)?.link;
  return inside ? behindLink(origin.subgraph, inside, further) : null;
}

function behindSlot(node, slot, seen) {
  const link = linkInto(node, slot);
  return link ? behindLink(node.graph, link, seen) : null;
}

const modelSlots = (node) => (node.inputs ?? []).flatMap((input, slot) => (input.type === "MODEL" ? [slot] : []));

/** The checkpoint behind a node's model input. */
function behind(node, seen) {
  for (const slot of modelSlots(node)) {
    const found = behindSlot(node, slot, seen);
    if (found !== null) return found;
  }
  return null;
}

/** The checkpoint that a node is about: that of its model, or the only one in the workflow; null where there is none. */
export function checkpointOf(node) {
  if (!node.graph) return null;
  if (modelSlots(node).some((slot) => linkInto(node, slot))) return behind(node, new Set([node]));
  return theCheckpoint();
}

/** The only checkpoint of the workflow, or null. */
export const theCheckpoint = () => agreed(everyNode().map(loads));
