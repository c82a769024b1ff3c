// The page shows a node's live pictures before its result, and lets go of them late: a film that plays would stay
// behind the last of them. They go as the result comes.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const PICTURES = "$$canvas-image-preview"; // the page's name for their room on a node

function nodeAt(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = app.rootGraph ?? app.graph;
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  return graph?.getNodeById(last);
}

// The store that the page's own code asks; older pages have none, and read the list.
function previews() {
  const page = document.getElementById("vue-app")?.__vue_app__?.config.globalProperties;
  return page?.$pinia?._s.get("nodeOutput");
}

function show({ detail: { node: nodeId, output } }) {
  const node = nodeAt(nodeId);
  if (!node?.comfyClass?.startsWith("SanaVideo") || !output?.images?.length) return;
  const root = app.rootGraph ?? app.graph;
  const place = node.graph === root ? String(node.id) : `${node.graph.id}:${node.id}`;
  previews()?.revokePreviewsByLocatorId?.(place);
  delete app.nodePreviewImages?.[place];
  if (output.animated?.[0]) node.previewMediaType = "video"; // of a node inside a box, the page doesn't know it
  node.imgs = undefined;
  const room = output.animated && node.widgets?.find((widget) => widget.name === PICTURES);
  if (room) node.removeWidget(room); // or a film leaves it empty
  node.setDirtyCanvas?.(true, true);
}

function live({ detail: { displayNodeId } }) {
  const node = String(displayNodeId).includes(":") && nodeAt(displayNodeId);
  if (node?.comfyClass?.startsWith("SanaVideo")) node.previewMediaType = "image";
}

app.registerExtension({
  name: "sanavideo.results",
  setup() {
    api.addEventListener("executed", show);
    api.addEventListener("b_preview_with_metadata", live);
  },
});
