"""What open pages hear: their own jobs, the whole queue, and what they missed while they were away."""

import asyncio

import pytest

pytest.importorskip("aiohttp")
from support.page_client import Slow, begun, fixture_ask, slow  # noqa: F401
from support.prompts import chain


def test_pages_hear_of_their_own_jobs_and_of_the_whole_queue(ask):
    async def check(asked):
        mine, yours = await asked.socket("me"), await asked.socket("you")
        await asked.queue(slow(1), "me")
        await asked.queue(slow(2), "you")
        await begun()
        Slow.GO.set()
        await mine.until("execution_success")
        await yours.until("execution_success")
        await asyncio.sleep(0.1)
        last = (await asked.queue(chain(8), "me"))[1]["prompt_id"]
        await mine.until("execution_success")
        await asked.until(last, "completed")
        await asked.post("/api/queue", json={"clear": True})
        await yours.until("status")  # all that was sent before it is heard by now
        for socket in (mine, yours):
            jobs = {m["data"]["prompt_id"] for m in socket.heard if m["type"] != "status"}
            assert len(jobs) == (2 if socket is mine else 1)
            left = [
                m["data"]["status"]["exec_info"]["queue_remaining"]
                for m in socket.heard
                if m["type"] == "status"
            ]
            assert max(left) == 2
        assert mine.heard[0]["data"]["sid"] == "me"
        assert (await (await asked.socket()).until("status"))["sid"]  # a page that has no name gets one

    ask(check)


def test_a_page_that_was_away_hears_what_it_missed(ask):
    async def check(asked):
        away = await asked.socket("me")
        first = (await asked.queue(slow(1) | chain(5), "me"))[1]["prompt_id"]
        await begun()
        await away.leave()
        back = await asked.socket("me")  # still running
        assert (await back.until("executing"))["node"] == "s"
        assert "execution_start" in back.kinds()
        await back.leave()
        Slow.GO.set()
        await asked.until(first, "completed")
        later = await asked.socket("me")  # over by now
        await later.until("execution_success")
        await asked.post("/api/queue", json={"clear": True})
        await later.until("status")  # all that was sent before it is heard by now
        assert later.words == [("s", "going on: 1")]
        assert {m["data"]["node"] for m in later.heard if m["type"] == "executed"} == {"s", "show"}
        await later.leave()
        again = await asked.socket("me")  # knows all: nothing is reported twice
        await asked.queue(chain(6), "me")
        assert "executed" not in again.kinds()
        start_of = await again.until("execution_start")
        assert start_of["prompt_id"] != first
        stranger = await asked.socket("other")
        await asyncio.sleep(0.1)
        await asked.until((await asked.queue(chain(7), "other"))[1]["prompt_id"], "completed")
        await stranger.until("execution_success")
        assert first not in {m["data"].get("prompt_id") for m in stranger.heard}

    ask(check)


def test_a_page_that_comes_back_before_its_cut_is_noticed(ask):
    """The old connection looks alive; what was sent into it may have been lost."""

    async def check(asked):
        lost = await asked.socket("me")
        job = (await asked.queue(chain(5), "me"))[1]["prompt_id"]
        await asked.until(job, "completed")
        back = await asked.socket("me")
        await back.until("execution_success")
        assert {m["data"]["node"] for m in back.heard if m["type"] == "executed"} == {"show"}
        await lost.leave()  # the end of the old one takes nothing from the new one
        await asked.until((await asked.queue(chain(6), "me"))[1]["prompt_id"], "completed")
        await back.until("execution_success")

    ask(check)
