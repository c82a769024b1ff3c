"""Questions to a workflow that the page has loaded. Each yields what is wrong, as a text.

`loaded`: file (what was given), saved (what the page would save), widgets (what it built), prompt (what it
would run) and twin (the prompt that is checked in); `info`: /object_info.
"""

from comfyui_sana_video.standalone.engine.graph import fits

CONTROL = "control_after_generate"
KINDS = {
    "INT": "number",
    "FLOAT": "number",
    "BOOLEAN": "toggle",
    "COMBO": "combo",
    "STRING": ("customtext", "string", "text"),
}


def entries(node, info):
    """(name, type, options, needed) of a node's inputs, in order."""
    for place in ("required", "optional"):
        for name, (kind, *rest) in info[node]["input"].get(place, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            if kind == "COMFY_DYNAMICCOMBO_V3":  # Save Video's codec from ComfyUI 0.33 on
                kind, options = "COMBO", {"options": [option["key"] for option in options["options"]]}
            yield name, kind, options, place == "required"


def wrong_types(loaded, info):
    return [f"missing type {node['type']}" for node in loaded["widgets"] if not node["known"]]


def wrong_values(loaded, info):
    """What the page would save is what the file holds."""
    saved = {str(node["id"]): node for node in loaded["saved"]["nodes"]}
    for node in loaded["file"]["nodes"]:
        written, kept = node.get("widgets_values"), saved[str(node["id"])].get("widgets_values")
        if written != kept and (written or kept):
            yield f"values of {node['type']}: {written} became {kept}"
    links = {tuple(map(str, link)) for link in loaded["file"]["links"]}
    if links != {tuple(map(str, link)) for link in loaded["saved"]["links"]}:
        yield "values of links"


def wrong_widgets(loaded, info):
    """Names, order, kinds, ranges and choices are those of the node's inputs."""
    for node in loaded["widgets"]:
        if node["type"] not in info:
            continue
        expected = {}
        for name, kind, options, _ in entries(node["type"], info):
            if kind in KINDS and not options.get("forceInput"):
                expected[name] = (kind, options)
                if control := options.get(CONTROL):  # the page calls the widget by a word, if it is one
                    choices = {"options": ["fixed", "increment", "decrement", "randomize"]}
                    expected[CONTROL if control is True else control] = ("COMBO", choices)
                if options.get("image_upload"):
                    expected["upload"] = ("BUTTON", {})
        if [widget["name"] for widget in node["widgets"]] != list(expected):
            yield f"widgets of {node['type']}: {[w['name'] for w in node['widgets']]}, not {list(expected)}"
            continue
        for widget, (kind, options) in zip(node["widgets"], expected.values(), strict=True):
            yield from _wrong_widget(f"widget {widget['name']} of {node['type']}", widget, kind, options)


def _wrong_widget(what, widget, kind, options):
    value = widget["value"]
    if kind == "BUTTON":
        return
    if widget["type"] not in KINDS[kind]:
        yield f"{what} is a {widget['type']}"
    python = {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool, "COMBO": str, "STRING": str}[kind]
    if not isinstance(value, python) or (kind != "BOOLEAN" and isinstance(value, bool)):
        yield f"{what} holds {value!r}"
    elif kind in ("INT", "FLOAT"):
        for end, sign in (("min", 1), ("max", -1)):
            wanted = options.get(end)
            if wanted is not None and abs(wanted) < 2**53 and widget[end] != wanted:
                yield f"{what} has {end} {widget[end]}, not {wanted}"
            if wanted is not None and sign * (value - wanted) < 0:
                yield f"{what} is out of range: {value}"
    elif kind == "COMBO":
        if not set(options["options"]) <= set(widget["values"] or []):
            yield f"{what} offers {widget['values']}"
        if value not in options["options"]:
            yield f"{what} is no choice: {value}"


def wrong_prompt(loaded, info):
    """What would be run is the checked-in twin."""
    run, wanted = ({i: _signature(node) for i, node in loaded[name].items()} for name in ("prompt", "twin"))
    if run != wanted:
        nodes = {i for i in run | wanted if run.get(i) != wanted.get(i)}
        yield f"prompt differs at {sorted(nodes)}"
    for node_id, node in loaded["prompt"].items():
        for name, _, _, needed in entries(node["class_type"], info) if node["class_type"] in info else ():
            if needed and name not in node["inputs"]:
                yield f"prompt lacks {name} of node {node_id}"


def _signature(node):
    """Without what newer versions of the page add to a node's title."""
    return node["class_type"], node["inputs"], node.get("_meta", {}).get("title")


def wrong_inputs(loaded, info):
    """Every input that the file names exists, and every link brings what its input takes."""
    nodes = {node["id"]: node for node in loaded["file"]["nodes"]}
    for node in nodes.values():
        if node["type"] not in info:
            continue
        known = {name: kind for name, kind, _, _ in entries(node["type"], info)} | {"upload": ""}
        for entry in node["inputs"]:
            if entry["name"] not in known:
                yield f"input {entry['name']} of {node['type']} is unknown"
    for link, source, slot, target, entry, kind in loaded["file"]["links"]:
        if not {source, target} <= set(nodes):
            yield f"link {link} leads nowhere"
            continue
        brought = info[nodes[source]["type"]]["output"][slot] if nodes[source]["type"] in info else kind
        name = nodes[target]["inputs"][entry]["name"] if nodes[target]["type"] in info else None
        taken = (
            next((k for n, k, _, _ in entries(nodes[target]["type"], info) if n == name), kind)
            if name
            else kind
        )
        if not fits(brought, kind) or not fits(brought, taken):
            owner = nodes[target]["type"]
            yield f"input {name} of {owner} takes {taken}, the link brings {brought} as {kind}"


CHECKS = (wrong_types, wrong_values, wrong_widgets, wrong_prompt, wrong_inputs)
