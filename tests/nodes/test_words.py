"""What a node says on the page: warnings, errors, how far it is."""

import logging
import sys
from types import SimpleNamespace

import pytest
import server
from comfy import model_management as management
from comfy_execution.utils import CurrentNodeContext
from comfyui_sana_video.bridge import words
from comfyui_sana_video.bridge.progress import callbacks, progress_line
from comfyui_sana_video.nodes import NODES
from comfyui_sana_video.nodes.words import speaking
from comfyui_sana_video.sana_video_core.callbacks import Progress
from support.artist import demo, folders, node, one_chunk, run, sample, start

logger = logging.getLogger("sana_video")


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


@pytest.fixture
def page(monkeypatch):
    """What the page was sent: (node, text, page); inside, node 7 runs."""
    sent = []
    instance = SimpleNamespace(client_id="me", send_progress_text=lambda *message: sent.append(message))
    monkeypatch.setattr(server.PromptServer, "instance", instance)
    with CurrentNodeContext("a prompt", "7"):
        yield sent


def _ending(page):
    assert page
    assert {message[1:] for message in page} == {("7", "me")}
    return page[-1][0]


@pytest.mark.parametrize("each", NODES, ids=lambda each: each.__name__)
def test_every_node_says_its_warnings_and_its_error(each, page, caplog):
    assert each.execute.__func__.__wrapped__.__name__ == "execute"

    def execute(cls):
        logger.info("only for the log")
        logger.warning("The %s is odd.", "picture")
        logger.warning("The %s is odd.", "picture")
        raise ValueError("broken")

    clone = type(each.__name__, (each,), {"execute": classmethod(execute)})
    speaking(clone)
    with pytest.raises(ValueError, match="broken"):
        clone.execute()
    assert _ending(page) == "The picture is odd.  \nValueError: broken"
    assert caplog.messages.count("The picture is odd.") == 2


def test_the_sentence_of_our_errors_is_said_as_it_is(page):
    with pytest.raises(Exception, match="bidirectional") as caught:
        run("Start", demo().bidirectional, 64, 48, 1)
    assert _ending(page) == str(caught.value)
    assert type(caught.value).__module__ == "SANA-Video"  # what ComfyUI writes before the sentence


def test_a_foreign_error_is_shortened(page):
    with pytest.raises(RuntimeError), words.on_node():
        raise RuntimeError("a" * 1000)
    assert len(_ending(page)) < 320


def test_an_interrupt_passes_in_silence(page):
    with pytest.raises(management.InterruptProcessingException), words.on_node():
        raise management.InterruptProcessingException
    assert page == []


def test_words_are_those_of_the_node_that_runs(page):
    with words.on_node():
        words.say("first")
    words.say("between nodes")
    logger.warning("between nodes")
    with CurrentNodeContext("a prompt", "8"), words.on_node():
        words.say("second")
    assert [message[:2] for message in page] == [("first", "7"), ("second", "8")]


def test_words_of_a_loops_node_are_shown_where_the_page_has_it(page, monkeypatch):
    """As ComfyUI's progress bars: the loop's copy 7.0.2 of node 5 has no drawing of its own."""
    nodes = SimpleNamespace(get_display_node_id={"7.0.2": "5"}.get)
    progress = SimpleNamespace(get_progress_state=lambda: SimpleNamespace(dynprompt=nodes))
    monkeypatch.setitem(sys.modules, "comfy_execution.progress", progress)
    with CurrentNodeContext("a prompt", "7.0.2"), words.on_node():
        words.say("again")
    assert page == [("again", "5", "me")]


def test_progress_takes_the_place_of_progress_and_sentences_stay(page):
    with words.on_node():
        words.say_progress("1 of 2")
        logger.warning("Odd <lora:a:1>.")
        words.say_progress("2 of 2")
    assert [message[0] for message in page] == [
        "1 of 2",
        "Odd ‹lora:a:1›.  \n1 of 2",  # a page may read the text as HTML
        "Odd ‹lora:a:1›.  \n2 of 2",
    ]


def test_without_a_page_nothing_happens(monkeypatch):
    monkeypatch.setattr(server.PromptServer, "instance", None)
    with words.on_node():
        words.say("to nobody")
    # a prompt from a script: without a receiver, ComfyUI would send the words to every open page
    monkeypatch.setattr(server.PromptServer, "instance", SimpleNamespace(client_id=None))
    with CurrentNodeContext("a prompt", "7"), words.on_node():
        words.say("to nobody")
    monkeypatch.delitem(sys.modules, "server")
    with CurrentNodeContext("a prompt", "7"), words.on_node():
        words.say("to nobody")


def test_the_log_prints_where_nobody_set_logging_up():
    """A handler of our own would switch Python's last resort off."""
    assert logger.handlers == []


def test_the_sampler_says_how_far_it_is(page):
    state = one_chunk()[1]
    page.clear()
    sample(state, chunks=2)
    lines = [message[0] for message in page]
    assert lines[0] == "chunk 1 of 2 · 2.5 of 5 s"
    assert lines[1].startswith("chunk 1 of 2 · 2.5 of 5 s · about ")
    assert lines[1].endswith(" s left")
    assert lines[3].startswith("chunk 2 of 2 · 5 of 5 s · about ")
    assert lines[-1].startswith("2 chunks · 5 s · took ")
    assert len(lines) == 6


@pytest.mark.parametrize(
    "step, elapsed, line",
    [
        (1, 10, "chunk 3 of 6 · 7.5 of 15 s · about 15 s left"),
        (5, 60, "chunk 3 of 6 · 7.5 of 15 s · about 60 s left"),
        (5, 200, "chunk 3 of 6 · 7.5 of 15 s · about 3 min left"),
        (5, 7200, "chunk 3 of 6 · 7.5 of 15 s · about 2.0 h left"),
    ],
)
def test_the_time_that_is_left(step, elapsed, line):
    ends = [2.5, 5, 7.5, 10, 12.5, 15]
    assert progress_line(Progress(3, 6, step, 5, None), ends, elapsed) == line.replace(
        "15 s left", f"{10 / 11 * 19:.0f} s left"
    )


def test_what_was_skipped_took_no_time(page, monkeypatch):
    """A decoder that begins in a later scene: chunk 4 of 5, of which one step of ten took a second."""
    times = iter((100.0, 100.5, 101.0))
    monkeypatch.setattr("comfyui_sana_video.bridge.progress.time.monotonic", lambda: next(times))
    with words.on_node():
        work = callbacks(5, 10)
        work.progress(Progress(4, 5, 1, 10, None))
        work.progress(Progress(4, 5, 2, 10, None))
    assert [message[0] for message in page] == ["chunk 4 of 5", "chunk 4 of 5 · about 9 s left"]


@pytest.mark.parametrize(
    "step, steps, filled",
    [(1, 11, 20), (5, 11, 24), (10, 11, 29), (11, 11, 30), (1, 3, 23), (2, 3, 26), (3, 3, 30), (7, 10, 27)],
)
def test_the_bar_gives_every_chunk_the_same_length(step, steps, filled, monkeypatch):
    """A decoder's first chunk has 11 latent frames, the others 10, an image's one."""
    filling = []
    bar = SimpleNamespace(update_absolute=lambda *values: filling.append(values))
    monkeypatch.setattr("comfy.utils.ProgressBar", lambda total: filling.append(total) or bar)
    callbacks(4, 10).progress(Progress(3, 4, step, steps, None))
    assert filling == [40, (filled, 40)]
    assert type(filling[1][0]) is int


def test_a_step_cache_that_does_nothing_is_told(page):
    model, state = demo().model.clone(), one_chunk()[1]
    model.model_options["transformer_options"]["easycache"] = object()
    page.clear()
    sample(state, model=model)
    assert "A step cache (EasyCache, LazyCache) on this MODEL does nothing in a stream" in page[0][0]


def test_a_saved_state_is_told(page, base):
    run("SaveState", one_chunk()[1], "mine")
    assert _ending(page).startswith("Saved mine_00001_.safetensors: everything, 41 frames, ")


def test_decoding_says_chunks_only(page):
    latent, state, _ = one_chunk()
    page.clear()
    run("Decode", demo().vae, latent, state)
    assert page[0][0].startswith("chunk 1 of 1")
    assert _ending(page).startswith("1 chunk · took ")


def test_a_states_text_is_on_its_node(page):
    state = one_chunk()[1]
    run("StateInfo", state)
    head, chunk = _ending(page).splitlines()
    assert head.startswith("1 chunk · 41 frames · 2.6 s · 48 x 32 · memory ")
    assert chunk == "chunk 0 · 2.6 s: a red ball rolls"


# --- what is refused before anything runs


@pytest.mark.parametrize(
    "name, values, said",
    [
        ("Start", {"width": 33, "height": 32}, ("width is 33", "32 or 48")),
        ("Start", {"width": None, "height": 8}, ("height is 8", "Try 16")),
        ("Start", {"width": 0, "height": None}, ("width is 0",)),
        ("Start", {"width": -16, "height": None}, ("width is -16",)),
        ("Start", {"width": 832, "height": 5000}, ("height is 5000", "4096")),
        ("EmptyLatent", {"width": 33, "height": 32, "length": 81}, ("width is 33",)),
        ("EmptyLatent", {"width": 32, "height": 32, "length": 80}, ("80 frames", "77 or 81")),
        ("EmptyLatent", {"width": 32, "height": 32, "length": 9000}, ("9000 frames", "8185")),
        ("BlockSampler", {"chunks": 0}, ("0 chunks", "1 to 102")),
        ("BlockSampler", {"chunks": 103}, ("103 chunks", "1 to 102")),
        ("SaveState", {"filename_prefix": "../x"}, ("“../x”", "output folder")),
        ("ModelLoader", {"model_name": "demo (built in)", "family": "toaster"}, ("toaster", "longsana_480p")),
        ("ModelLoader", {"model_name": None, "family": "toaster"}, ("toaster", "auto")),
        (
            "ModelLoader",
            {"model_name": "demo (built in)", "family": "longsana_480p"},
            ("family demo", "longsana_480p was chosen", "auto"),
        ),
    ],
)
def test_widgets_are_refused_before_the_run(name, values, said):
    answer = node(name).validate_inputs(**values)
    assert all(word in str(answer) for word in said), answer


@pytest.mark.parametrize(
    "name, values",
    [
        ("Start", {"width": None, "height": None}),
        ("Start", {"width": 4096, "height": 16}),
        ("EmptyLatent", {"width": None, "height": 16, "length": None}),
        ("EmptyLatent", {"width": 832, "height": 480, "length": 8185}),
        ("BlockSampler", {"chunks": None}),
        ("SaveState", {"filename_prefix": None}),
        ("SaveState", {"filename_prefix": "%date%/x"}),
        ("ModelLoader", {"model_name": None, "family": "sana_video_720p"}),
        ("ModelLoader", {"model_name": "demo (built in)", "family": None}),
        ("ModelLoader", {"model_name": "demo (built in)", "family": "auto"}),
        ("ModelLoader", {"model_name": "demo (built in)", "family": "sana_video_480p"}),
    ],
)
def test_what_can_work_or_is_linked_is_let_through(name, values):
    assert node(name).validate_inputs(**values) is True


def test_limits_that_are_checked_here_are_the_widgets(base):
    """ComfyUI leaves the limits of a widget to a node that names it in validate_inputs."""
    sizes = {entry.id: entry.as_dict() for entry in node("EmptyLatent").GET_SCHEMA().inputs}
    assert (sizes["width"]["max"], sizes["height"]["max"], sizes["length"]["max"]) == (4096, 4096, 8185)
    sizes = {entry.id: entry.as_dict() for entry in node("Start").GET_SCHEMA().inputs}
    assert (sizes["width"]["max"], sizes["height"]["max"], sizes["window"]["max"]) == (4096, 4096, 102)
    (chunks,) = (e.as_dict() for e in node("BlockSampler").GET_SCHEMA().inputs if e.id == "chunks")
    assert chunks["max"] == 102


def test_a_chunk_that_is_not_there_is_refused_before_the_vae_is_loaded(monkeypatch, base):
    vae = demo().vae
    monkeypatch.setattr(type(vae), "load_for", lambda *_: pytest.fail("loaded"), raising=False)
    for state, said in ((one_chunk()[1], "Choose 0 to 0"), (start(), "stream is empty")):
        with pytest.raises(Exception, match=said):
            run("DecodeStream", vae, state, 1, 16.0, "h264", 0)
    assert not list((base / "temp").glob("*.mp4"))
