"""What an artist sees of a run: steps, live pictures, results, errors on the node; and what a bad moment
leaves.
"""

import re

import pytest
from playwright.sync_api import expect
from support.calibration import until
from support.demo_chain import demo_chain

PACK = "SanaVideo"


def drawing(**changes):
    """Three shots; `changes`: widget values by class, position and value."""
    workflow = demo_chain()
    for node in workflow["nodes"]:
        for position, value in changes.get(node["type"].removeprefix(PACK), {}).items():
            node["widgets_values"][position] = value
    return workflow


def one_block(**sampler):
    """Models, prompt, start, one block sampler and what its state holds: the first part of a film."""
    workflow = drawing(BlockSampler=sampler.pop("values", {}), Start=sampler.pop("size", {}))
    keep = {"ModelLoader", "TextEncoderLoader", "Start", "TextEncode", "BlockSampler", "StateInfo"}
    first = {}
    for node in workflow["nodes"]:
        if node["type"].removeprefix(PACK) in keep:
            first.setdefault(node["type"], node)
    workflow["nodes"] = list(first.values())
    ids = {node["id"] for node in workflow["nodes"]}
    workflow["links"] = [link for link in workflow["links"] if {link[1], link[3]} <= ids]
    known = {link[0] for link in workflow["links"]}
    for node in workflow["nodes"]:
        for output in node["outputs"]:
            output["links"] = [link for link in output["links"] or [] if link in known]
    workflow["groups"] = []
    return workflow


def node_id(workflow, kind):
    return str(next(node["id"] for node in workflow["nodes"] if node["type"] == PACK + kind))


LONG = {"values": {0: 40}}  # chunks: far more than any test waits for
SMALL = {0: 64, 1: 64}  # pixels, where a run only has to end


def test_steps_pictures_and_the_filmstrip(window):
    workflow = one_block(values={0: 2, 1: 101}, size=SMALL)
    window.load(workflow)
    window.fit()
    assert window.run().status == 200
    shot, info = node_id(workflow, "BlockSampler"), node_id(workflow, "StateInfo")
    window.wait_for("progress", 60, node=shot, value=1)
    window.wait_for("execution_success")
    steps = window.steps(shot)
    assert steps == sorted(set(steps))
    assert steps[-1] == 10  # 2 chunks x (4 steps + absorbing)
    assert window.previews >= 3  # an estimate, a frame of the first chunk, the last frame
    width = "id => app.graph.getNodeById(id).imgs?.[0]?.naturalWidth ?? 0"
    window.page.wait_for_function(f"id => ({width})(id) > 0", arg=info)
    assert window.page.evaluate(width, shot) == 512  # a live picture stays
    window.shot("filmstrip")


def test_stop_and_go_on(window):
    workflow = one_block(**LONG)
    window.load(workflow)
    shot = node_id(workflow, "BlockSampler")
    window.run()
    window.wait_for_step(6, 60)
    window.page.get_by_role("button", name=re.compile("interrupt|cancel|stop", re.I)).locator(
        "visible=true"
    ).first.click()
    window.wait_for("execution_interrupted", 20)
    last = max(window.steps())
    assert last < 100  # of 200
    workflow = one_block(values={0: 3})
    window.load(workflow)
    assert window.run().status == 200
    window.wait_for("execution_success")
    left = {
        m["data"]["max"] for m in window.messages if m["type"] == "progress" and m["data"]["node"] == shot
    }
    assert left != {15}, "the finished chunk was made again"


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes 2.0"])
def test_an_error_is_shown_on_its_node(window, vue):
    """Its sentence stays there after the page has dropped its own texts, and until the node runs again."""
    window.empty(vue, width=1900, height=1100)
    workflow = drawing(ModelLoader={1: "sana_video_480p"}, Start=SMALL, BlockSampler={0: 1})
    window.load(workflow)
    window.fit()
    window.run()
    error, start = window.wait_for("execution_error"), node_id(workflow, "Start")
    assert error["node_id"] == start
    sentence = "a stream needs a block-causal one"
    assert sentence in error["exception_message"]
    expect(window.page.get_by_test_id("error-overlay")).to_be_visible()
    window.page.wait_for_timeout(2500)  # the page may drop texts when it hears of the run's end
    assert sentence in window.words(start)
    expect(window.page.get_by_text(sentence).first).to_be_visible()
    window.shot(f"error-on-node-{'vue' if vue else 'canvas'}")
    assert window.errors == []
    loader = node_id(workflow, "ModelLoader")
    window.page.evaluate("id => { app.graph.getNodeById(id).widgets[1].value = 'auto' }", loader)
    window.run()
    window.wait_for("execution_success")
    window.page.wait_for_timeout(2500)
    assert window.words(start) == ""


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes 2.0"])
def test_an_error_in_a_subgraph_is_shown_where_its_node_is(window, vue):
    window.empty(vue)
    workflow = drawing(ModelLoader={1: "sana_video_480p"}, Start=SMALL, BlockSampler={0: 1})
    window.load(workflow)
    window.page.evaluate(
        "id => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])) }",
        node_id(workflow, "Start"),
    )
    window.run()
    window.wait_for("execution_error")
    window.page.wait_for_timeout(2500)
    window.page.evaluate("""() => { const node = app.graph.nodes.find(node => node.isSubgraphNode());
        app.canvas.openSubgraph(node.subgraph, node) }""")
    expect(window.page.get_by_text("a stream needs a block-causal one").first).to_be_visible()
    assert window.errors == []


def test_warnings_and_progress_stay_on_their_nodes(window):
    workflow = one_block(values={0: 2, 1: 102}, size=SMALL)
    next(n for n in workflow["nodes"] if n["type"].endswith("TextEncode"))["widgets_values"][0] = (
        "a (red:1.3) ball moves right over a blue floor"
    )
    window.load(workflow)
    window.fit()
    window.run()
    window.wait_for("execution_success")
    window.page.wait_for_timeout(2500)
    assert "“(red:1.3)” in the prompt" in window.words(node_id(workflow, "TextEncode"))
    assert re.match(r"2 chunks · 5\.1 s · took \d+ s$", window.words(node_id(workflow, "BlockSampler")))
    assert "chunks 0 to 1 · 5.1 s: a (red:1.3) ball" in window.words(node_id(workflow, "StateInfo"))
    window.shot("words")
    assert window.errors == []


def test_a_size_is_refused_before_anything_runs(window):
    workflow = drawing(Start={0: 33})
    window.load(workflow)
    answer = window.run()
    assert answer.status == 400
    assert "The width is 33 pixels" in answer.text()
    assert [*answer.json()["node_errors"]] == [node_id(workflow, "Start")]
    window.page.wait_for_timeout(500)
    assert window.words(node_id(workflow, "Start")).startswith("The width is 33 pixels; ")
    window.shot("size-refused")
    assert window.errors == []


def test_a_missing_link_is_told_before_anything_runs(site, window):
    workflow = one_block()
    window.load(workflow)
    window.page.evaluate(
        "id => app.graph.getNodeById(id).disconnectInput(app.graph.getNodeById(id).findInputSlot('state'))",
        node_id(workflow, "BlockSampler"),
    )
    answer = window.run()
    assert answer.status == 400
    assert node_id(workflow, "BlockSampler") in answer.json()["node_errors"]
    assert window.page.evaluate("() => Object.keys(app.lastNodeErrors)") == [
        node_id(workflow, "BlockSampler")
    ]
    if site.kind == "studio":
        assert "“state” is missing; connect or fill it." in window.details_of_errors()
    window.shot("refused")


def test_a_workflow_of_another_pack(window):
    workflow = drawing()
    next(n for n in workflow["nodes"] if n["type"] == "SaveVideo")["type"] = "SomebodyElsesSaver"
    window.load(workflow)
    expect(
        window.page.get_by_text("SomebodyElsesSaver").first
    ).to_be_visible()  # the page says what is missing
    window.shot("missing-node")
    answer = window.run()
    assert answer.status == 400
    assert re.search("SomebodyElsesSaver|#16", answer.text())  # ComfyUI reports the number alone


def test_a_file_that_is_no_workflow(window, tmp_path):
    for name, text in (("list.json", "[1, 2]"), ("text.json", "no JSON")):
        (tmp_path / name).write_text(text)
        window.page.locator("#comfy-file-input").set_input_files(tmp_path / name)
        expect(window.page.get_by_text(f"Unable to find workflow in {name}").first).to_be_visible()
    window.shot("no-workflow")
    window.load(one_block(values={0: 1, 1: 101}, size=SMALL))
    assert window.run().status == 200  # the page lives
    window.wait_for("execution_success")


def test_two_windows_at_once(window, new_window):
    """Each sees its own results; the second waits for the first."""
    one, two = window, new_window.open().empty()
    for page, seed in ((one, 201), (two, 202)):
        page.load(one_block(values={0: 2, 1: seed}))
        assert page.run().status == 200
    one.wait_for("execution_success")
    two.wait_for("execution_success")
    for page in (one, two):
        jobs = {m["data"]["prompt_id"] for m in page.messages if "prompt_id" in m.get("data", {})}
        assert len(jobs) == 1
    assert any(
        m["data"]["status"]["exec_info"]["queue_remaining"] == 2
        for m in two.messages
        if m["type"] == "status"
    )


def test_a_cut_socket(new_window, site):
    """The connection is lost in the middle of a run; the page comes back and is ready.

    Ours also shows what became of it: a ComfyUI does not send again what a page missed.
    """
    gate, sockets = {"open": True}, []

    def through(socket):
        if not gate["open"]:
            socket.close()
            return
        sockets.append(socket)
        socket.connect_to_server()

    window = new_window
    window.page.route_web_socket(re.compile(r"/ws"), through)
    window.open().empty()
    workflow = one_block(values={0: 2, 1: 301})
    window.load(workflow)
    window.run()
    window.wait_for_step(2)
    gate["open"] = False
    sockets[-1].close()
    until(lambda: not window.running(), 60, window.pause)  # the run ends while nobody listens
    gate["open"] = True
    info = node_id(workflow, "StateInfo")
    if site.kind == "studio":
        window.page.wait_for_function(
            "id => (app.graph.getNodeById(id).imgs?.[0]?.naturalWidth ?? 0) > 0", arg=info
        )
    expect(window.page.get_by_text("0 active")).to_be_visible()
    expect(window.page.get_by_test_id("queue-button")).to_be_enabled()
    window.shot("after-a-cut")
