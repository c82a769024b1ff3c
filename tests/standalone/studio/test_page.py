"""Who may ask the page's server, what it says of nodes, and what it refuses to run."""

import json

import pytest

pytest.importorskip("aiohttp")
from support.page_client import fixture_ask  # noqa: F401
from support.prompts import chain, node

# ---------------------------------------------------------------- who may ask


def test_only_its_own_page_on_this_machine(ask):
    async def check(asked):
        own_origin = f"http://127.0.0.1:{asked.port}"
        for headers, status in (
            ({}, 200),
            ({"Origin": own_origin}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "http://127.0.0.1:1"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": "evil.example"}, 403),  # a name of somebody else's that leads here
            ({"Host": "localhost"}, 200),
            ({"Host": "[::1]:8189"}, 200),
            ({"Host": "[::1"}, 403),
            ({"Origin": "http://["}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
        ):
            answer = await asked.get("/api/jobs", headers=headers)
            assert answer.status == status, headers
        assert (
            await asked.get("/", headers={"Sec-Fetch-Site": "cross-site"})
        ).status == 200  # a link to the studio
        assert "on this machine" in await (await asked.get("/", headers={"Host": "evil.example"})).text()
        answer = await asked.get("/")
        assert await answer.text() == "<p>the page"
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]

    ask(check)


def test_told_to_listen_it_answers_by_any_name_but_to_its_own_page_only(ask):
    async def check(asked):
        assert (await asked.get("/api/jobs", headers={"Host": "studio.example"})).status == 200
        other = {"Host": "studio.example", "Origin": "https://evil.example"}
        assert (await asked.get("/api/jobs", headers=other)).status == 403

    ask(check, local=False)


# ---------------------------------------------------------------- nodes and refusals


def test_nodes_are_told_as_they_are_and_those_of_comfyui_beside_them(ask, toy_classes):
    async def check(asked):
        base = asked.base
        (base / "models" / "vae").mkdir(parents=True)
        (base / "models" / "vae" / "some.safetensors").touch()
        info = await (await asked.get("/object_info")).json()
        assert info["ToyBlock"] == json.loads(json.dumps(toy_classes["ToyBlock"].GET_NODE_INFO_V1()))
        assert info["VAELoader"]["input"]["required"]["vae_name"] == [["some.safetensors"]]
        assert info["KSampler"]["input_order"]["required"][:2] == ["model", "seed"]

    ask(check)


def test_our_scripts_are_listed_and_served(ask):
    async def check(asked):
        listed = await (await asked.get("/api/extensions")).json()
        assert "/extensions/ComfyUI-SANA-Video/state_colour.js" in listed
        for url in listed:
            answer = await asked.get(url)
            assert answer.status == 200
            assert answer.content_type.endswith("/javascript")

    ask(check)


def test_nodes_that_only_another_page_knows_stand_for_what_they_carry(ask):
    async def check(asked):
        drawn = [
            {"id": 7, "type": "SetNode", "widgets_values": ["s"], "inputs": [{"link": 1}]},
            {"id": 8, "type": "GetNode", "widgets_values": ["s"], "outputs": [{}]},
            {"id": 9, "type": "Label (rgthree)"},
        ]
        prompt = {**chain(5), "7": {"inputs": {"a": ["1", 0]}}, "8": {"inputs": {}}, "9": {"inputs": {}}}
        prompt["2"]["inputs"]["state"] = ["8", 0]
        extra = {"extra_pnginfo": {"workflow": {"nodes": drawn}}}
        for targets in ([], ["show"]):
            body = {"prompt": prompt, "extra_data": extra, "partial_execution_targets": targets}
            answer = await asked.post("/api/prompt", json=body)
            assert answer.status == 200, await answer.text()
            job = (await answer.json())["prompt_id"]
            whole = await (await asked.get(f"/api/jobs/{job}")).json()
            assert whole["workflow"]["prompt"] == chain(5)
        drawn[1] |= {"type": "Far", "properties": {"cnr_id": "a-pack"}}
        answer = await asked.post("/api/prompt", json={"prompt": prompt, "extra_data": extra})
        assert "There is no node Far (a-pack) here" in await answer.text()
        prompt["8"] = {"class_type": "Reroute", "inputs": {"a": ["8", 0]}}
        answer = await asked.post("/api/prompt", json={"prompt": prompt})
        assert "feeds itself in a circle" in await answer.text()

    ask(check)


def test_what_cannot_run_is_refused_in_sentences(ask):
    async def check(asked):
        for body, word in (
            ([1], "An object with names"),
            ({"a": 1}, "no workflow"),
            ({"prompt": []}, "no workflow"),
            ({"prompt": {"1": 5}}, "no workflow"),
            ({"prompt": {"1": {"class_type": "ToyStart"}}}, "no workflow"),
            ({"prompt": {"1": {"class_type": ["ToyStart"], "inputs": {}}}}, "no workflow"),
            ({"prompt": {"1": {**node("ToyStart"), "_meta": None}}}, "Nothing in this graph saves"),
            ({"prompt": chain(1), "extra_data": [1]}, "extra_data"),
            ({"prompt": chain(1), "extra_data": {"extra_pnginfo": "a"}}, "extra_data"),
            ({"prompt": chain(1), "extra_data": {"extra_pnginfo": {"workflow": [1]}}}, "extra_data"),
            (
                {"prompt": chain(1), "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [5]}}}},
                "extra_data",
            ),
            ({"prompt": chain(1), "partial_execution_targets": 5}, "list of ids"),
            ({"prompt": chain(1), "partial_execution_targets": [["1"]]}, "list of ids"),
            ({"prompt": chain(1), "number": "x"}, "must be a number"),
            ({"prompt": chain(1), "number": float("nan")}, "must be a number"),
            ({"prompt": chain(*range(2000))}, "the most is 100"),
            ({"prompt": {}}, "Nothing in this graph saves"),
            ({"prompt": {"1": node("Elsewhere")}}, "There is no node Elsewhere here"),
            ({"prompt": {"1": node("KSampler")}}, "Only a real ComfyUI runs KSampler"),
        ):
            answer = await asked.post("/api/prompt", json=body)
            assert answer.status == 400
            assert word in await answer.text(), body
        for body in (b"{no", b"[" * 100_000, b"\xff\xfe{}"):
            answer = await asked.post("/api/prompt", data=body)
            assert (answer.status, "no JSON" in await answer.text()) == (400, True)
        drawn = {"extra_pnginfo": {"workflow": {"nodes": [{"id": 7, "type": "FarAway"}]}}}
        body = {"prompt": {"7": {"inputs": {}}}, "extra_data": drawn}
        assert "There is no node FarAway here" in await (await asked.post("/api/prompt", json=body)).text()
        prompt = chain(1, 500)
        status, answer = await asked.queue(prompt)
        assert status == 400
        (error,) = answer["node_errors"]["3"]["errors"]
        assert error["type"] == "custom_validation_failed"  # of other kinds the page shows words of its own
        assert "500" in error["details"]
        assert error["details"].count(".") == 1
        prompt = {"1": node("KSampler"), "2": node("Elsewhere")}
        status, answer = await asked.queue(prompt)
        assert (list(answer["node_errors"]), "Elsewhere" in answer["error"]["message"]) == (["1"], True)
        for path in ("/api/queue", "/api/history", "/api/interrupt"):
            assert (await asked.post(path, json=[1])).status == 400
        assert (await asked.get("/api/jobs?limit=x")).status == 400
        for path, body in (
            ("queue", {"delete": None}),
            ("history", {"delete": 5}),
            ("interrupt", {"prompt_id": [1]}),
        ):
            assert (await asked.post(f"/api/{path}", json=body)).status == 400
        assert (await (await asked.get("/api/jobs")).json())["jobs"] == []

    ask(check)


def test_our_workflows_are_the_templates(ask):
    async def check(asked):
        (group,) = await (await asked.get("/templates/index.json")).json()
        assert len(group["templates"]) == 13
        for card in group["templates"]:
            assert "nodes" in json.loads(await (await asked.get(f"/templates/{card['name']}.json")).read())
            shown = await asked.get(f"/templates/{card['name']}-1.jpg")
            assert (shown.status, shown.content_type) == (200, "image/jpeg")
            assert 0 < len(card["title"]) < 60 < len(card["description"])
        assert (await asked.get("/templates/..%2FREADME.json")).status == 404

    ask(check)


def test_our_blueprints_are_those_of_a_pack(ask):
    """As ComfyUI's app/subgraph_manager.py answers: a list without texts, then each text by its id."""

    async def check(asked):
        listed = await (await asked.get("/api/global_subgraphs")).json()
        assert sorted(about["name"] for about in listed.values()) == ["SANA-Video film", "SANA-Video shot"]
        for key, about in listed.items():
            assert set(about) == {"source", "name", "info"}
            assert (about["source"], list(about["info"])) == ("custom_node", ["node_pack"])
            assert len(bytes.fromhex(key)) == 32
            whole = await (await asked.get(f"/api/global_subgraphs/{key}")).json()
            assert whole.items() >= about.items()
            assert json.loads(whole["data"])["definitions"]["subgraphs"][0]["name"] == about["name"]
        assert await (await asked.get("/global_subgraphs/..%2FREADME")).json() is None

    ask(check)
