// Links between our help pages. The page opens every link in a new tab: as an address of its own, where older pages
// find nothing, or as bare text. So these are followed in the panel, in the reader's language, until something else
// is clicked.
import { app } from "../../scripts/app.js";

const DOCS = new URL("./docs/", import.meta.url);
const PANEL = ".node-help-content";
// of a page, or of a translation; newer pages put the folder before it
const LINK = /^(?:\/.*\/docs\/)?(?:\.\.\/)?(SanaVideo\w+)(?:\/[\w-]+)?\.md$/;
let left; // the panel in which a link was followed, and what it showed

async function textOf(name) {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  for (const path of [`${name}/${language}.md`, `${name}.md`]) {
    const answer = await fetch(new URL(path, DOCS));
    if (answer.ok) return answer.text();
  }
  return `There is no help page ${name}.`;
}

async function follow(event) {
  const link = event.target.closest?.(`${PANEL} a`);
  const name = link?.getAttribute("href")?.match(LINK)?.[1];
  if (!name) return;
  event.preventDefault();
  const help = link.closest(`${PANEL} > *`);
  const html = app.extensionManager.renderMarkdownToHtml(await textOf(name), DOCS.pathname);
  left ??= { help, html: help.innerHTML };
  help.innerHTML = html;
  help.scrollIntoView({ block: "start" });
}

// The page knows nothing of it, and would show the same to whoever selects another node of this kind.
function back(event) {
  if (!left || event.target.closest?.(PANEL)) return;
  if (left.help.isConnected) left.help.innerHTML = left.html;
  left = undefined;
}

app.registerExtension({
  name: "sanavideo.help",
  setup() {
    const page = document.getElementById("vue-app"); // the panel comes and goes in it
    page?.addEventListener("click", follow, true);
    page?.addEventListener("pointerdown", back, true);
  },
});
