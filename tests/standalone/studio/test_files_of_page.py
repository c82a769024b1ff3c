"""The page's files: results, uploads, saved workflows and settings, in their own folders only."""

import asyncio
import io
from functools import partial

import pytest
from PIL import Image

pytest.importorskip("aiohttp")
from comfyui_sana_video.sana_video_core.files.atomic import atomic_path
from comfyui_sana_video.sana_video_core.files.claims import claim
from comfyui_sana_video.standalone.studio import files as page_files
from support.page_client import fixture_ask  # noqa: F401


def picture(color="red", kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(file, kind)
    return file.getvalue()


def _without_rows():
    """A picture whose header and checksums are right, and half of its pixels are missing."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return file.getvalue()[:1000]


async def _upload(asked, content, name="a.png", **fields):
    from aiohttp import FormData

    form = FormData(quote_fields=False)
    form.add_field("image", content, filename=name)
    for field, value in fields.items():
        form.add_field(field, value)
    answer = await asked.post("/api/upload/image", data=form)
    return answer.status, await (answer.json() if answer.status == 200 else answer.text())


def test_files_are_seen_in_their_own_folders_only(ask, tmp_path):
    async def check(asked):
        base = asked.base
        (base / "secret.png").write_bytes(picture())
        for folder in ("input", "output", "temp"):
            (base / folder / "deep").mkdir(parents=True)
            (base / folder / "deep" / "a.png").write_bytes(picture())
        (base / "output" / "link.png").symlink_to(base / "secret.png")
        for name in ("page.html", "drawing.svg"):
            (base / "output" / name).write_text("<script>")
        see = partial(asked.get, "/api/view")
        for kind in ("input", "output", "temp"):
            answer = await see(params={"filename": "a.png", "subfolder": "deep", "type": kind, "rand": "1"})
            assert (answer.status, answer.content_type) == (200, "image/png")
        for bad, status in (
            ({"filename": "../secret.png"}, 403),
            ({"filename": "secret.png", "subfolder": ".."}, 403),
            ({"filename": str(base / "secret.png")}, 403),
            ({"filename": "link.png"}, 403),
            ({"filename": "a\0.png"}, 403),
            ({"filename": "a.png", "type": "models"}, 400),
            ({"subfolder": "deep"}, 400),
            ({"filename": "gone.png"}, 404),
            ({"filename": "deep"}, 404),
        ):
            assert (await see(params=bad)).status == status, bad
        assert (await see(params={"filename": "a.png", "subfolder": "x" * 5000})).status == 400
        for name in ("page.html", "drawing.svg"):  # could run scripts as if they were the page's own
            answer = await see(params={"filename": name})
            sent_as = (answer.content_type, answer.headers["Content-Disposition"])
            assert sent_as == ("application/octet-stream", "attachment")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    ask(check)


def test_pictures_are_uploaded_under_free_names(ask, monkeypatch):
    monkeypatch.setattr(page_files, "UPLOAD_LIMIT", 10_000)
    monkeypatch.setattr("comfyui_sana_video.standalone.studio.page.UPLOAD_LIMIT", 10_000)

    async def check(asked):
        base = asked.base
        red, blue = picture("red"), picture("blue")
        names = [await _upload(asked, content) for content in (red, blue, red)]
        assert [answer["name"] for _, answer in names] == ["a.png", "a (1).png", "a.png"]
        status, answer = await _upload(asked, blue, "a.png", overwrite="true", subfolder="my/own")
        assert (status, answer) == (200, {"name": "a.png", "subfolder": "my/own", "type": "input"})
        assert await _upload(asked, blue, "a.png", overwrite="true") == (
            200,
            {"name": "a.png", "subfolder": "", "type": "input"},
        )
        assert (base / "input" / "a.png").read_bytes() == blue
        for content, name, fields, status in (
            (b"<svg>", "a.svg", {}, 400),
            (b"no picture", "b.png", {}, 400),
            (red[: len(red) // 2], "c.png", {}, 400),
            (_without_rows(), "c.png", {}, 400),
            (red, "n" * 300 + ".png", {}, 400),
            (red, "d.png", {"subfolder": "../.."}, 403),
            (red + bytes(20_000), "e.png", {}, 413),
        ):
            assert (await _upload(asked, content, name, **fields))[0] == status, name
        assert await _upload(asked, red, "../../f.png") == (
            200,
            {"name": "f.png", "subfolder": "", "type": "input"},
        )
        assert sorted(path.name for path in (base / "input").rglob("*.*")) == [
            "a (1).png",
            "a.png",
            "a.png",
            "f.png",
        ]
        assert [path.name for path in base.iterdir()].count("f.png") == 0

    ask(check)


def test_workflows_are_saved_listed_moved_and_deleted(ask):
    async def check(asked):
        base = asked.base
        user = base / "user" / "default"
        path = "/api/userdata/workflows%2Fmy%20film.json"
        answer = await asked.post(path + "?overwrite=false&full_info=true", data=b'{"nodes": []}')
        assert (await answer.json())["path"] == "workflows/my film.json"
        assert (user / "workflows" / "my film.json").read_text() == '{"nodes": []}'
        assert (await asked.post(path + "?overwrite=false", data=b"{}")).status == 409
        assert await (await asked.post(path, data=b"{}")).json() == "workflows/my film.json"
        assert await (await asked.get(path)).text() == "{}"
        moved = await asked.post(path + "/move/workflows%2Fdeep%2Fother.json?overwrite=false")
        assert await moved.json() == "workflows/deep/other.json"
        see = partial(asked.get, "/api/userdata")
        assert await (await see(params={"dir": "workflows"})).json() == []
        assert await (await see(params={"dir": "workflows", "recurse": "true"})).json() == ["deep/other.json"]
        split = await see(params={"dir": "workflows", "recurse": "true", "split": "true"})
        assert await split.json() == [["deep/other.json", "deep", "other.json"]]
        full = await (await see(params={"dir": "workflows", "recurse": "true", "full_info": "true"})).json()
        assert [(entry["path"], entry["size"]) for entry in full] == [("deep/other.json", 2)]
        assert (await asked.get(path)).status == 404
        assert (await asked.delete("/api/userdata/workflows%2Fdeep%2Fother.json")).status == 204
        answer = await asked.post(path, data=b"<script>")
        answer = await asked.get(path)
        sent_as = (answer.content_type, answer.headers["Content-Disposition"])
        assert sent_as == ("application/octet-stream", "attachment")
        (base / "a.json").write_text("not the page's")
        for outside in ("..%2F..%2Fa.json", "%2Fetc%2Fpasswd"):
            assert (await asked.get(f"/api/userdata/{outside}")).status == 403
            assert (await asked.delete(f"/api/userdata/{outside}")).status == 403
            assert (await asked.post(f"{path}/move/{outside}")).status == 403
            assert (await see(params={"dir": outside.replace("%2F", "/")})).status == 403
            assert (await asked.post(f"/api/userdata/{outside}", data=b"x")).status == 403
        assert await (await see(params={"dir": "nothing"})).json() == []
        (user / "a file").touch()
        answer = await asked.post(
            "/api/userdata/a%20file%2Fb.json", data=b"x"
        )  # a file where a folder is needed
        assert answer.status == 507
        (user / "workflows" / "folder").mkdir()
        assert (await asked.post(f"{path}/move/workflows%2Ffolder")).status == 409
        for name in ("n" * 300, "workflows"):
            assert (await asked.delete(f"/api/userdata/{name}")).status in (400, 404)
        assert not list(user.rglob(".*"))
        assert (base / "a.json").read_text() == "not the page's"

    ask(check)


def test_writes_at_once_do_not_lose_each_other(ask):
    async def check(asked):
        await asyncio.gather(*(asked.post(f"/api/settings/k{i}", json=i) for i in range(40)))
        assert await (await asked.get("/api/settings")).json() == {f"k{i}": i for i in range(40)}
        uploads = await asyncio.gather(*(_upload(asked, picture((i, 0, 0)), "same.png") for i in range(20)))
        assert len({answer["name"] for _, answer in uploads}) == 20
        path = "/api/userdata/one.json?overwrite=false"
        saved = await asyncio.gather(*(asked.post(path, data=str(i).encode()) for i in range(10)))
        assert sorted(answer.status for answer in saved) == [200] + [409] * 9

    ask(check)


def test_a_full_disk_leaves_the_older_file(ask, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    async def check(asked):
        base = asked.base
        path = "/api/userdata/a.json"
        assert (await asked.post(path, data=b"old")).status == 200
        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        answer = await asked.post(path, data=b"new")
        assert (answer.status, "No space left" in await answer.text()) == (507, True)
        assert await (await asked.get(path)).text() == "old"
        assert [path.name for path in (base / "user" / "default").iterdir()] == ["a.json"]

    ask(check)


def test_two_studios_on_one_folder_do_not_take_each_others_names(ask):
    """Another process holds the name that both count to."""

    async def check(asked):
        base = asked.base
        (base / "input").mkdir(exist_ok=True)
        with claim(base / "input" / "a.png"):
            assert (await _upload(asked, picture()))[1]["name"] == "a (1).png"
        (base / "user" / "default").mkdir(parents=True)
        with claim(base / "user" / "default" / "a.json"):
            assert (await asked.post("/api/userdata/a.json?overwrite=false", data=b"{}")).status == 507
            assert (await asked.post("/api/userdata/a.json", data=b"{}")).status == 200

    ask(check)


def test_files_that_are_being_written_are_not_listed(ask):
    async def check(asked):
        user = asked.base / "user" / "default"
        (user / "workflows").mkdir(parents=True)
        with atomic_path(user / "workflows" / "a.json"):
            for deep in ("true", "false"):
                answer = await asked.get("/api/userdata", params={"dir": "workflows", "recurse": deep})
                assert await answer.json() == []

    ask(check)


def test_names_that_the_system_refuses_are_refused_in_words(ask):
    async def check(asked):
        user = asked.base / "user" / "default"
        user.mkdir(parents=True)
        (asked.base / "output").mkdir(exist_ok=True)
        (user / "a.json").write_text("{}")
        long = "n" * 300
        for answer in (
            await asked.get(f"/api/userdata/{long}"),
            await asked.post(f"/api/userdata/{long}?overwrite=false", data=b"x"),
            await asked.post(f"/api/userdata/a.json/move/{long}"),
            await asked.get("/api/view", params={"filename": long}),
        ):
            assert (answer.status, "too long" in await answer.text()) == (400, True)
        answer = await asked.post(f"/api/userdata/{long}", data=b"x")
        assert (answer.status, "too long" in await answer.text()) == (507, True)
        answer = await asked.get("/api/userdata", params={"dir": "a\0"})
        assert answer.status == 403
        assert (user / "a.json").read_text() == "{}"

    ask(check)


def test_settings_from_an_editor_on_windows(ask):
    async def check(asked):
        folder = asked.base / "user" / "default"
        folder.mkdir(parents=True)
        for encoding in ("utf-8-sig", "utf-16"):
            (folder / "comfy.settings.json").write_text('{"A": "猫"}', encoding=encoding)
            assert await (await asked.get("/api/settings")).json() == {"A": "猫"}

    ask(check)


def test_settings_are_kept_and_the_tutorial_is_never_over(ask):
    async def check(asked):
        base = asked.base
        await asked.post("/api/settings/A.b", json=[1, 2])
        await asked.post("/api/settings", json={"C": True, "Comfy.TutorialCompleted": True})
        assert await (await asked.get("/api/settings")).json() == {"A.b": [1, 2], "C": True}
        assert await (await asked.get("/api/settings/C")).json() is True
        for wrong in ([1], 5, "text", None):
            assert (await asked.post("/api/settings", json=wrong)).status == 400
        for damaged in ("{", "[]"):
            (base / "user" / "default" / "comfy.settings.json").write_text(damaged)
            assert await (await asked.get("/api/settings")).json() == {}

    ask(check)
