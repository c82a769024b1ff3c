// What our nodes say (warnings, errors, how far they are) stays on them until they run again. The page shows it
// as progress text, which newer versions remove when a run ends, and older ones never.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const PREVIEW = "$$node-text-preview"; // the page's name for the widget
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];
const AFTER = [0, 500, 2000]; // milliseconds: the page may hear of a run only after its error
const LETTER = 6.5, LINE = 16, LINES = 6; // pixels of the page's small type; more lines scroll
const refused = new Set(); // ids of nodes whose values were refused
// by node: { nodeId, text, before: its height without words, grown: with them, shown: its result as text }
const said = new Map();

function nodeAt(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = app.rootGraph ?? app.graph;
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  const node = graph?.getNodeById(last);
  return node?.comfyClass?.startsWith("SanaVideo") ? node : undefined;
}

function widgetOf(node) {
  return node.widgets?.find((widget) => widget.name === PREVIEW);
}

function hear({ detail: { nodeId, text } }) {
  const node = nodeAt(nodeId);
  if (!node) return;
  said.set(node, { before: node.size[1], ...said.get(node), nodeId, text });
  setTimeout(() => grow(node)); // when the page has made its widget
}

// A node that the canvas draws gets room for its lines; in Nodes 2.0 it grows by itself.
function grow(node) {
  const words = said.get(node), widget = widgetOf(node);
  if (!words || !widget?.options || LiteGraph.vueNodesMode) return;
  const width = (node.size[0] - 60) / LETTER;
  const lines = words.text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / width)), 0);
  const height = 26 + LINE * Math.min(lines, LINES);
  widget.options.getMinHeight = () => height;
  node.setSize([node.size[0], Math.max(words.before, node.computeSize()[1])]);
  words.grown = node.size[1];
  node.setDirtyCanvas?.(true, true); // a canvas at rest draws nothing
}

function forget({ detail }) {
  const node = detail && nodeAt(detail.node ?? detail);
  const words = said.get(node), widget = words && widgetOf(node);
  said.delete(node);
  if (widget) node.removeWidget(widget);
  if (words && words.grown === node.size[1]) node.setSize([node.size[0], words.before]);
  if (words) node.setDirtyCanvas?.(true, true);
}

function repeat() {
  for (const [node, { nodeId, text }] of said) {
    if (nodeAt(nodeId) !== node) said.delete(node); // of a workflow that was closed
    else if (widgetOf(node)?.value !== text) api.dispatchCustomEvent("progress_text", { nodeId, text });
  }
}

function fail({ detail }) {
  const words = said.get(nodeAt(detail.node_id));
  if (words) words.failed = true;
}

// A node whose result is in the cache again doesn't run, but its error is over.
function recover({ detail }) {
  for (const nodeId of detail.nodes) if (said.get(nodeAt(nodeId))?.failed) forget({ detail: nodeId });
}

// A node whose result is in the cache doesn't speak again. Where the page hasn't heard it, or has heard it of
// another result, what it shows is said.
function remember({ detail: { node: nodeId, output } }) {
  const node = nodeAt(nodeId), words = said.get(node);
  if (!node || !output?.text) return;
  const shown = output.text.join("\n");
  if (!words || (words.shown ?? shown) !== shown) {
    const text = shown.replaceAll("\n", "  \n").replaceAll("<", "\u2039").replaceAll(">", "\u203a");
    api.dispatchCustomEvent("progress_text", { nodeId, text });
  }
  said.get(node).shown = shown;
}

// What ComfyUI refuses before it runs, in our words: “width - The width is 33 pixels; …”
function tell(nodeErrors) {
  for (const [nodeId, { errors }] of Object.entries(nodeErrors ?? {})) {
    const ours = errors.filter(({ type }) => type === "custom_validation_failed");
    const sentences = new Set(ours.map(({ details }) => details.replace(/^\w+ - /, "")));
    if (sentences.size && nodeAt(nodeId)) {
      refused.add(nodeId);
      api.dispatchCustomEvent("progress_text", { nodeId, text: [...sentences].join("  \n") });
    }
  }
}

// What was refused is asked anew. Newer pages announce no answer that refuses, so it is waited for.
function queueing() {
  for (const nodeId of refused) forget({ detail: nodeId });
  refused.clear();
  setTimeout(answered);
}

function answered() {
  if (app.processingQueue) setTimeout(answered, 50);
  else tell(app.lastNodeErrors);
}

app.registerExtension({
  name: "sanavideo.words",
  setup() {
    api.addEventListener("promptQueueing", queueing);
    api.addEventListener("progress_text", hear);
    api.addEventListener("executing", forget);
    api.addEventListener("execution_error", fail);
    api.addEventListener("execution_cached", recover);
    api.addEventListener("executed", remember);
    // of a node in a subgraph, the page shows words only there
    app.canvas.canvas.addEventListener("litegraph:set-graph", () => setTimeout(repeat));
    for (const end of ENDS) api.addEventListener(end, () => AFTER.forEach((time) => setTimeout(repeat, time)));
  },
});
