"""A workflow file of toy nodes, as ComfyUI's page saves it, and the prompt that the page makes of it.

Every rule has its node. PROMPT was compared with the result of the page's graphToPrompt (frontend 1.47.10).
"""


def box(node_id, kind, values=(), mode=0, title=None, inputs=(), outputs=()):
    """`inputs`: (name, type, link, is a widget); `outputs`: types."""
    entries = [
        {"name": name, "type": sort, "link": link, **({"widget": {"name": name}} if widget else {})}
        for name, sort, link, widget in inputs
    ]
    slots = [{"name": sort, "type": sort, "links": []} for sort in outputs]
    drawn = {"id": node_id, "type": kind, "pos": [0, 0], "size": [200, 100], "flags": {}, "order": node_id}
    drawn |= {"mode": mode, "inputs": entries, "outputs": slots, "properties": {}}
    drawn |= {"widgets_values": list(values)}
    return drawn | ({"title": title} if title else {})


STATE, START = "TOY_STATE", [7, "randomize", 0.25, "b", "two\nlines", False, 3]
STATE_IN = lambda link: ("state", STATE, link, False)  # noqa: E731
SEED_IN = lambda link: ("seed", "INT", link, True)  # noqa: E731

NODES = [
    box(1, "ToyStart", START, outputs=[STATE, "INT"], title="The start"),
    box(2, "Reroute", inputs=[("", "*", 1, False)], outputs=[STATE]),
    box(3, "ToyBlock", [5], inputs=[STATE_IN(2)], outputs=[STATE, "INT"]),
    box(4, "ToyBlock", [6], mode=4, inputs=[STATE_IN(3)], outputs=[STATE, "INT"]),  # bypassed
    box(5, "PrimitiveNode", [42, "fixed"], outputs=["INT"]),
    box(6, "ToyBlock", [42], inputs=[STATE_IN(4), SEED_IN(5)], outputs=[STATE, "INT"]),
    box(7, "ToyBlock", [8], inputs=[STATE_IN(6), SEED_IN(7)], outputs=[STATE, "INT"]),  # a linked widget
    box(8, "ToyShow", inputs=[("value", "TOY_STATE,INT", 8, False)]),
    box(9, "Note", ["do not forget"]),
    box(10, "ToyStart", START, mode=2, outputs=[STATE, "INT"]),  # muted
    box(11, "ToyOwn", inputs=[STATE_IN(9), ("any", "*", 10, False)], outputs=[STATE]),
    box(12, "ToyShow", inputs=[("value", "TOY_STATE,INT", 11, False)]),
    box(13, "ToyBlock", [9], mode=4, inputs=[STATE_IN(12), SEED_IN(None)], outputs=[STATE, "INT"]),
    box(14, "ToyShow", inputs=[("value", "TOY_STATE,INT", 13, False)]),
    box(
        15,
        "ToyLazy",
        [1],
        mode=4,
        inputs=[("which", "INT", 14, True), ("first", STATE, 15, False)],
        outputs=[STATE],
    ),
    # not the INT, which ToyShow takes, too
    box(16, "ToyShow", inputs=[("value", "TOY_STATE,INT", 16, False)]),
    box(17, "ToyBlock", [9], mode=4, inputs=[STATE_IN(17), SEED_IN(18)], outputs=[STATE, "INT"]),
    box(18, "ToyShow", inputs=[("value", "TOY_STATE,INT", 19, False)]),
]
LINKS = [  # id, from node, slot, to node, slot, type
    [1, 1, 0, 2, 0, "*"],
    [2, 2, 0, 3, 0, STATE],
    [3, 3, 0, 4, 0, STATE],
    [4, 4, 0, 6, 0, STATE],
    [5, 5, 0, 6, 1, "INT"],
    [6, 6, 0, 7, 0, STATE],
    [7, 1, 1, 7, 1, "INT"],
    [8, 7, 1, 8, 0, "INT"],
    [9, 10, 0, 11, 0, STATE],
    [10, 1, 1, 11, 1, "INT"],
    [11, 11, 0, 12, 0, STATE],
    [12, 1, 0, 13, 0, STATE],
    [13, 13, 0, 14, 0, STATE],
    [14, 1, 1, 15, 0, "INT"],
    [15, 1, 0, 15, 1, STATE],
    [16, 15, 0, 16, 0, STATE],
    [17, 1, 0, 17, 0, STATE],
    [18, 1, 1, 17, 1, "INT"],
    [19, 17, 1, 18, 0, "INT"],
]
DRAWING = {
    "last_node_id": 14,
    "last_link_id": 13,
    "nodes": NODES,
    "links": LINKS,
    "groups": [],
    "version": 0.4,
}

VALUES = {"seed": 7, "strength": 0.25, "mode": "b", "text": "two\nlines", "on": False, "slider": 3}
PROMPT = {
    "1": ("ToyStart", "The start", VALUES),
    "3": ("ToyBlock", "ToyBlock", {"seed": 5, "state": ["1", 0]}),
    "6": ("ToyBlock", "ToyBlock", {"seed": 42, "state": ["3", 0]}),
    "7": ("ToyBlock", "ToyBlock", {"seed": ["1", 1], "state": ["6", 0]}),
    "8": ("ToyShow", "ToyShow", {"value": ["7", 1]}),
    "11": ("ToyOwn", "ToyOwn", {"any": ["1", 1]}),
    "12": ("ToyShow", "ToyShow", {"value": ["11", 0]}),
    "14": ("ToyShow", "ToyShow", {"value": ["1", 0]}),
    "16": ("ToyShow", "ToyShow", {"value": ["1", 0]}),
    "18": ("ToyShow", "ToyShow", {"value": ["1", 1]}),
}
PROMPT = {
    node_id: {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    for node_id, (kind, title, inputs) in PROMPT.items()
}
