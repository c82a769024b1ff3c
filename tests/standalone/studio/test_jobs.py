"""The queue behind the page: order, messages, interrupts, errors."""

import asyncio
import io
import json

import pytest
from comfy import cli_args
from PIL import Image

pytest.importorskip("aiohttp")
from support.page_client import Slow, begun, fixture_ask, slow  # noqa: F401
from support.prompts import TWO_OUTPUTS, chain, node, start


def test_the_messages_of_a_run_are_comfyuis(ask):
    async def check(asked):
        socket = await asked.socket("me")
        _, answer = await asked.queue(chain(5), "me", extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
        await socket.until("execution_success")
        assert [k for k in socket.kinds() if k != "progress_state"] == [
            "execution_start", "execution_cached", "executing", "executing", "executing", "executed",
            "execution_success",
        ]  # fmt: skip
        assert (await socket.until("executing"))["node"] is None
        assert {m["data"]["prompt_id"] for m in socket.heard if m["type"] != "status"} == {
            answer["prompt_id"]
        }
        (done,) = [m["data"] for m in socket.heard if m["type"] == "executed"]
        assert (done["node"], done["output"]) == ("show", {"text": ["[1, 5]"]})
        states = [m["data"]["nodes"] for m in socket.heard if m["type"] == "progress_state"]
        assert {name: entry["state"] for name, entry in states[-1].items()} == {
            "1": "finished", "2": "finished", "show": "running",
        }  # fmt: skip
        job = await asked.until(answer["prompt_id"], "completed")
        assert (job["workflow_id"], job["outputs"], job["outputs_count"]) == (
            "w",
            {"show": {"text": ["[1, 5]"]}},
            0,
        )
        assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
        again = await asked.queue(chain(5), "me")
        await asked.until(again[1]["prompt_id"], "completed")
        cached = [m for m in socket.heard if m["type"] == "execution_cached"]
        await socket.until("execution_success")
        cached = [m["data"]["nodes"] for m in socket.heard if m["type"] == "execution_cached"]
        assert cached == [[], ["1", "2", "show"]]

    ask(check)


def test_a_live_picture_says_which_node_it_is_of(ask):
    async def check(asked):
        socket = await asked.socket("me")
        await asked.queue(slow(), "me")
        await begun()
        Slow.GO.set()
        await socket.until("execution_success")
        assert socket.words == [("s", "going on: 0")]
        for (kind, about, picture), size in zip(socket.pictures, [(64, 32), (32, 64)], strict=True):
            about = json.loads(about)
            assert (kind, about["node_id"], about["image_type"]) == (4, "s", "image/jpeg")
            assert Image.open(io.BytesIO(picture)).size == size  # beside the bar, and from a thread
        (step,) = [m["data"] for m in socket.heard if m["type"] == "progress"]
        assert (step["node"], step["value"], step["max"]) == ("s", 1, 4)

    ask(check)


def test_the_pages_preview_setting_holds_for_its_run(ask):
    async def check(asked):
        args = cli_args.args
        usual, none = args.preview_method, cli_args.LatentPreviewMethod.NoPreviews
        settings = [({"preview_method": "none"}, none), ({}, usual), ({"preview_method": 5}, usual)]
        for seed, (data, method) in enumerate(settings):
            _, job = await asked.queue(slow(seed), "me", extra_data=data)
            await begun()
            assert args.preview_method is method
            Slow.GO.set()
            await asked.until(job["prompt_id"], "completed")
            Slow.GO.clear()

    ask(check)


def test_one_after_the_other_in_front_and_taken_away(ask):
    async def check(asked):
        jobs = [(await asked.queue(slow(1)))[1]["prompt_id"]]
        await begun()
        jobs += [(await asked.queue(slow(seed)))[1]["prompt_id"] for seed in (2, 3)]
        jobs.append((await asked.queue(slow(4), front=True))[1]["prompt_id"])
        jobs.append((await asked.queue(slow(5), number=-7.5))[1]["prompt_id"])  # before that one
        listed = await (await asked.get("/api/jobs?status=pending")).json()
        assert {job["id"] for job in listed["jobs"]} == set(jobs[1:])
        page = await (await asked.get("/api/jobs?status=in_progress,pending&limit=2&offset=1")).json()
        assert page["pagination"] == {"offset": 1, "limit": 2, "total": 5, "has_more": True}
        answer = await asked.post(f"/api/jobs/{jobs[1]}/cancel")
        assert await answer.json() == {"cancelled": True}
        assert await (await asked.post(f"/api/jobs/{jobs[1]}/cancel")).json() == {"cancelled": False}
        Slow.GO.set()
        done = [await asked.until(job, "completed") for job in (jobs[0], jobs[4], jobs[3], jobs[2])]
        ends = [job["execution_end_time"] for job in done]
        assert ends == sorted(ends)
        rest = await (await asked.get("/api/jobs?limit=9&offset=3")).json()
        assert (len(rest["jobs"]), rest["pagination"]["has_more"]) == (1, False)
        assert (await asked.get(f"/api/jobs/{jobs[1]}")).status == 404
        await asked.post("/api/history", json={"delete": [jobs[0]]})
        assert (await asked.get(f"/api/jobs/{jobs[0]}")).status == 404
        await asked.post("/api/history", json={"clear": True})
        assert (await (await asked.get("/api/jobs")).json())["jobs"] == []

    ask(check)


def test_the_queue_is_cleared_and_what_runs_goes_on(ask):
    async def check(asked):
        running = (await asked.queue(slow(1)))[1]["prompt_id"]
        waiting = [(await asked.queue(slow(seed)))[1]["prompt_id"] for seed in (2, 3, 4)]
        await begun()
        await asked.post("/api/queue", json={"delete": [waiting[0]]})
        assert (await asked.get(f"/api/jobs/{waiting[0]}")).status == 404
        await asked.post("/api/queue", json={"clear": "no"})
        await asked.post("/api/history", json={"clear": True})  # takes away neither what waits nor what runs
        assert len((await (await asked.get("/api/jobs")).json())["jobs"]) == 3
        await asked.post("/api/queue", json={"clear": True})
        Slow.GO.set()
        await asked.until(running, "completed")
        assert [job["id"] for job in (await (await asked.get("/api/jobs")).json())["jobs"]] == [running]

    ask(check)


def test_interrupts_hit_what_runs_and_only_that(ask):
    async def check(asked):
        socket = await asked.socket("me")
        first = (await asked.queue(slow(1), "me"))[1]["prompt_id"]
        second = (await asked.queue(slow(2), "me"))[1]["prompt_id"]
        await begun()
        await asked.post("/api/interrupt", json={"prompt_id": "another"})
        await asyncio.sleep(0.1)
        assert (await asked.until(first, "in_progress"))["status"] == "in_progress"
        await asked.post("/api/interrupt")
        stopped = await socket.until("execution_interrupted")
        assert (stopped["prompt_id"], stopped["node_id"], stopped["node_type"]) == (first, "s", "Slow")
        assert (await asked.until(first, "cancelled"))["status"] == "cancelled"
        await begun()
        Slow.GO.set()
        await asked.until(second, "completed")
        await asked.post("/api/interrupt", json={})  # nothing runs: nothing happens to the next one
        third = (await asked.queue(slow(3)))[1]["prompt_id"]
        await asked.until(third, "completed")

    ask(check)


def test_an_error_names_its_node_and_the_queue_goes_on(ask):
    async def check(asked):
        socket = await asked.socket("me")
        prompt = {
            "1": start(),
            "f": node("ToyFails", state=["1", 0], how="raise"),
            "show": node("ToyShow", value=["f", 0]),
        }
        job = (await asked.queue(prompt, "me"))[1]["prompt_id"]
        error = await socket.until("execution_error")
        assert (error["node_id"], error["node_type"], error["exception_message"]) == (
            "f",
            "ToyFails",
            "the toy broke",
        )
        assert error["exception_type"] == "RuntimeError"
        assert "the toy broke" in "".join(error["traceback"])
        assert (await asked.until(job, "failed"))["execution_error"]["node_id"] == "f"
        await asked.until((await asked.queue(chain(1)))[1]["prompt_id"], "completed")

    ask(check)


def test_an_output_that_cannot_run_is_marked_and_the_others_run(ask):
    async def check(asked):
        status, answer = await asked.queue(TWO_OUTPUTS)
        assert (status, list(answer["node_errors"])) == (200, ["bad"])
        job = await asked.until(answer["prompt_id"], "completed")
        assert list(job["outputs"]) == ["show"]

    ask(check)


def test_one_output_by_its_own_button(ask):
    async def check(asked):
        prompt = chain(5) | {"other": node("ToyShow", value=["1", 0])}
        _, answer = await asked.queue(prompt, partial_execution_targets=["other"])
        job = await asked.until(answer["prompt_id"], "completed")
        assert (list(job["outputs"]), list(job["workflow"]["prompt"])) == (["other"], ["1", "other"])

    ask(check)


def test_a_full_queue_says_so(ask, monkeypatch):
    monkeypatch.setattr("comfyui_sana_video.standalone.studio.page.QUEUE_LIMIT", 2)

    async def check(asked):
        for seed in (1, 2):
            await asked.queue(slow(seed))
        answer = await asked.post("/api/prompt", json={"prompt": slow(3)})
        assert (answer.status, "2 jobs wait already" in await answer.text()) == (429, True)
        Slow.GO.set()

    ask(check)


def test_odd_drawings_do_not_spoil_the_list_of_jobs(ask):
    async def check(asked):
        extra = {"extra_pnginfo": {"workflow": {"id": 5, "nodes": []}}}
        job = (await asked.queue(chain(1), extra_data=extra))[1]["prompt_id"]
        await asked.until(job, "completed")
        (listed,) = (await (await asked.get("/api/jobs")).json())["jobs"]
        assert "workflow_id" not in listed  # the page takes texts alone

    ask(check)


def test_old_jobs_are_forgotten(ask, monkeypatch):
    monkeypatch.setattr("comfyui_sana_video.standalone.studio.jobs.KEPT", 2)

    async def check(asked):
        jobs = []
        for seed in range(4):
            jobs.append((await asked.queue(chain(seed)))[1]["prompt_id"])
            await asked.until(jobs[-1], "completed")
        for _ in range(100):
            listed = [job["id"] for job in (await (await asked.get("/api/jobs")).json())["jobs"]]
            if len(listed) == 2:
                break
            await asyncio.sleep(0.01)
        assert listed == jobs[:1:-1]

    ask(check)


def test_the_server_ends_while_a_job_runs(ask):
    async def check(asked):
        await asked.queue(slow(1))
        await begun()
        await asked.close()  # stops the job, or it would wait ten seconds for it

    began = asyncio.new_event_loop().time()
    ask(check)
    assert asyncio.new_event_loop().time() - began < 5
