"""Toy nodes that use every corner of the V3 API that the fake ComfyUI has.

A real ComfyUI loads this folder as a pack, too.
"""

from comfy_api.latest import ComfyExtension, io, ui

State = io.Custom("TOY_STATE")
Other = io.Custom("TOY_OTHER")
CALLS = []  # (node, values) of every execution


class Start(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyStart",
            display_name="Toy Start",
            category="toy",
            description="Begins.",
            search_aliases=["begin"],
            is_experimental=True,
            essentials_category="Toys",
            inputs=[
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=2**53,
                    step=1,
                    control_after_generate=True,
                    tooltip="A seed.",
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True
                ),
                io.Combo.Input("mode", options=["a", "b"], default="a"),
                io.String.Input("text", default="hello", multiline=True, dynamic_prompts=True),
                io.Boolean.Input("on", default=True, label_on="yes", label_off="no", optional=True),
                io.Int.Input(
                    "slider", default=2, min=1, max=9, display_mode=io.NumberDisplay.slider, optional=True
                ),
            ],
            outputs=[State.Output("state", tooltip="The state."), io.Int.Output(display_name="number")],
        )

    @classmethod
    def execute(cls, seed, strength, mode, text, on=True, slider=2):
        CALLS.append(("ToyStart", seed))
        return io.NodeOutput([seed], seed)


class Block(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyBlock",
            category="toy",
            inputs=[State.Input("state"), io.Int.Input("seed", default=0, min=0, max=100)],
            outputs=[State.Output(), io.Int.Output("frames", display_name="frames so far")],
        )

    @classmethod
    def execute(cls, state, seed):
        CALLS.append(("ToyBlock", seed))
        return io.NodeOutput([*state, seed], len(state))


class Show(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyShow",
            category="toy",
            inputs=[io.MultiType.Input("value", types=[State, io.Int], tooltip="Either.")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value):
        CALLS.append(("ToyShow", value))
        return io.NodeOutput(ui=ui.PreviewText(str(value)))


class Lazy(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyLazy",
            category="toy",
            inputs=[
                io.Int.Input("which", default=1, min=1, max=3, display_mode=io.NumberDisplay.number),
                State.Input("first", lazy=True, optional=True),
                State.Input("second", lazy=True, optional=True),
            ],
            outputs=[State.Output()],
        )

    @classmethod
    def check_lazy_status(cls, which, first=None, second=None):
        wanted = {1: first, 2: second}
        return [{1: "first", 2: "second"}[which]] if which in wanted and wanted[which] is None else []

    @classmethod
    def execute(cls, which, first=None, second=None):
        CALLS.append(("ToyLazy", which))
        return io.NodeOutput([first, second])


class Checked(io.ComfyNode):
    """Checks `name` and `size` itself, which switches off the limits of both; `level` keeps them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyChecked",
            category="toy",
            inputs=[
                io.Combo.Input("name", options=["known"]),
                io.Int.Input("size", default=32, min=32, max=64),
                io.Int.Input("level", default=1, min=1, max=2),
                State.Input("state", optional=True),
            ],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def validate_inputs(cls, name, size, state=None):
        assert state is None  # a link is not known yet
        return True if size % 32 == 0 else f"size {size} is no multiple of 32"

    @classmethod
    def fingerprint_inputs(cls, name, size, level, state=None):
        return float("nan") if name == "changing" else name

    @classmethod
    def execute(cls, name, size, level, state=None):
        CALLS.append(("ToyChecked", name))
        return io.NodeOutput(size)


class Blocks(io.ComfyNode):
    """Blocks what follows: with a value beside it, or (which does nothing) without."""

    @classmethod
    def define_schema(cls):
        inputs = [State.Input("state"), io.Boolean.Input("with_value", default=True)]
        return io.Schema(node_id="ToyBlocks", category="toy", inputs=inputs, outputs=[State.Output()])

    @classmethod
    def execute(cls, state, with_value):
        return io.NodeOutput(*([state] if with_value else []), block_execution="enough")


class Own(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyOwn",
            category="toy",
            inputs=[State.Input("state"), io.AnyType.Input("any", optional=True)],
            outputs=[State.Output()],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,
            is_deprecated=True,
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, state, any=None):
        CALLS.append(("ToyOwn", cls.hidden.unique_id))
        assert cls.hidden.prompt is None
        return io.NodeOutput(state)


class Fails(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [State.Input("state"), io.Combo.Input("how", options=["raise", "write to cls"])]
        return io.Schema(node_id="ToyFails", category="toy", inputs=inputs, outputs=[State.Output()])

    @classmethod
    def execute(cls, state, how):
        if how == "write to cls":
            cls.cache = state
        raise RuntimeError("the toy broke")


class ToyExtension(ComfyExtension):
    async def get_node_list(self):
        return [Start, Block, Show, Lazy, Checked, Blocks, Own, Fails]


async def comfy_entrypoint():
    return ToyExtension()
