"""A film's plan on its node, as an artist sees it."""

PLAN = (
    "6 chunks · 2 scenes · 242 frames · 15.1 s at 16 fps  \n"
    "0:00.0 to 0:05.1 · 2 chunks · scene 1 · seed 0 · a fox runs through snow  \n"
    "0:05.1 to 0:10.1 · 2 chunks · scene 1 · seed 0 · the fox stops  \n"
    "0:10.1 to 0:15.1 · 2 chunks · scene 2, cut · seed 1 · a frozen lake"
)


def test_a_plan_is_seen_before_anything_is_sampled(window):
    """The second time its result is in the cache, and this node has never said it."""
    for vue in (False, True):
        script = window.empty(vue, width=1200, height=900).add("SANA-Video Script", 300, 200)
        assert window.run().status == 200
        window.wait_for("execution_success")
        window.page.wait_for_timeout(700)
        assert window.words(script) == PLAN
        window.shot(f"script-{'vue' if vue else 'canvas'}")
    window.type_text(script, "0:00 a\n0:00 b")
    assert window.run().status == 400
    window.page.wait_for_timeout(300)
    assert window.words(script).startswith("Line 2: its time, 0:00, isn't after that of line 1, 0:00.")
    assert window.errors == []
