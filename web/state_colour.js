// A colour of its own for SANA_STATE, so that a stream's path can be seen. ComfyUI knows none for types of packs.
import { app } from "../../scripts/app.js";

const ROOT = document.documentElement;
const TYPE = "SANA_STATE";
const COLOUR = "#00BFA5"; // no other type's; seen on dark and on light palettes

/** What a palette says of the type counts; the page empties the entry for each palette that says nothing. */
function colour(table) {
  let chosen = table[TYPE];
  const entry = { enumerable: true, get: () => chosen || COLOUR, set: (value) => (chosen = value) };
  Object.defineProperty(table, TYPE, entry);
}

/** The dots of Nodes 2.0 take theirs from the page's root. */
function dots() {
  const name = `--color-datatype-${TYPE}`;
  if (!ROOT.style.getPropertyValue(name)) ROOT.style.setProperty(name, COLOUR);
}

app.registerExtension({
  name: "sanavideo.state_colour",
  setup() {
    colour(app.canvas.default_connection_color_byType); // dots that the canvas draws
    colour(app.canvas.constructor.link_type_colors); // links, in both renderers
    new MutationObserver(dots).observe(ROOT, { attributeFilter: ["style"] }); // a palette was chosen
    dots();
  },
});
