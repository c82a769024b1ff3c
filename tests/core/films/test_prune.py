"""Manifests, sizes, and what pruning takes: the oldest first, and nothing of a film unless it is agreed."""

import os
import time
from contextlib import nullcontext

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.films import holds, prune
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.manifest import Manifest, manifest_path, read_manifests
from comfyui_sana_video.sana_video_core.films.store import DAY, Store
from comfyui_sana_video.sana_video_core.films.survey import size_of, survey

NOW = time.time()


@pytest.fixture
def films(tmp_path):
    return Store(tmp_path / "store")


def key(number):
    return f"{number:02x}" * 32


def add(films, number, *, days=0.0, kind="chunks", floats=1000):
    films.write(kind, key(number), {"latents": torch.full((floats,), float(number))}, {})
    os.utime(entry_path(films.folder, kind, key(number)), (NOW - days * DAY, NOW - days * DAY))


def film(films, path, numbers, *, made=True, finished=True):
    if made:
        path.write_bytes(b"film")
    manifest = Manifest(
        path=str(path), script="0:00 a fox", keys={"chunks": tuple(map(key, numbers))}, finished=finished
    )
    films.keep_film(manifest)
    return manifest


def numbers(films):
    return sorted(int(item.key[:2], 16) for item in survey(films.folder).items)


def pruned(films, answer=None, **limits):
    """What pruning did; it must not ask unless there is an answer."""
    plans = []

    def ask(plan):
        plans.append(plan)
        return answer

    done = prune.prune(films.folder, ask=ask, **limits)
    assert len(plans) == (answer is not None)
    return done, *plans


# --- manifests


def test_a_manifest_is_read_as_it_was_written(films, tmp_path):
    path = tmp_path / "Füchse “1” \udc80.mp4"
    film(films, tmp_path / "b.mp4", [3])
    first = film(films, path, [1], made=False, finished=False)
    second = film(films, path, [1, 2], made=False)
    read, unread = read_manifests(films.folder)
    assert read[manifest_path(films.folder, str(path))] == second != first
    assert len(read) == 2
    assert not unread
    assert not second.is_there
    assert read[manifest_path(films.folder, str(tmp_path / "b.mp4"))].is_there


def test_films_of_one_name_in_two_folders_are_two(films, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        film(films, tmp_path / folder / "film.mp4", [1])
    assert len(read_manifests(films.folder)[0]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-10],
        lambda text: "[]",
        lambda text: text.replace('"sana_video_film": 1', '"sana_video_film": 2'),
        lambda text: text.replace('"chunks"', '"things"'),
        lambda text: text.replace(key(1), "../" + key(1)),
        lambda text: text.replace("finished", "ended"),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_passed_over_and_everything_is_asked_for(change, films, tmp_path):
    add(films, 1, days=9)
    film(films, tmp_path / "b.mp4", [2])
    film(films, tmp_path / "a.mp4", [1])
    path = manifest_path(films.folder, str(tmp_path / "a.mp4"))
    path.write_text(change(path.read_text()))
    read, unread = read_manifests(films.folder)
    assert [one.path for one in read.values()] == [str(tmp_path / "b.mp4")]
    assert list(unread) == [path]
    assert all(unread.values())
    done, plan = pruned(films, False, age=DAY)
    assert (len(plan.listed), plan.unread, len(done.kept)) == (1, (path,), 1)
    assert numbers(films) == [1]
    pruned(films, True, age=DAY)
    assert numbers(films) == []
    assert not path.exists()
    assert len(read_manifests(films.folder)[0]) == 1


def test_a_film_on_a_disk_that_is_away_is_not_called_gone(films, monkeypatch):
    manifest = film(films, films.folder.parent / "a.mp4", [1], made=False)
    module = "comfyui_sana_video.sana_video_core.films.manifest.is_file"

    def away(path):
        raise FileError("not now")

    assert not manifest.is_there
    monkeypatch.setattr(module, away)
    assert manifest.is_there


# --- sizes


def test_a_survey_counts_by_kind_and_film(films, tmp_path):
    add(films, 1)
    add(films, 2)
    add(films, 3, kind="embeddings")
    film(films, tmp_path / "a.mp4", [2, 4])
    entry_path(films.folder, "chunks", key(1)).rename(
        entry_path(films.folder, "chunks", key(1)).with_name(f"{key(1)}.safetensors.damaged")
    )
    (films.folder / "chunks" / "02" / "note.txt").write_text("mine")
    seen = survey(films.folder)
    assert sorted(item.name for item in seen.items) == [("chunks", key(2)), ("embeddings", key(3))]
    assert [item.key for item in seen.damaged] == [key(1)]
    (manifest,) = seen.films.values()
    assert [item.key for item in seen.of(manifest)] == [key(2)]
    assert seen.size == sum(path.stat().st_size for path in films.folder.rglob("*.safetensors*"))


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    path = tmp_path / "chunks" / "01" / f"{key(1)}.safetensors.damaged"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(FileError, match="isn't a store"):
        survey(tmp_path)
    with pytest.raises(FileError, match="isn't a store"):
        prune.prune(tmp_path, age=0, ask=lambda plan: True)
    assert path.exists()
    assert len(list(tmp_path.iterdir())) == 1


# --- pruning


def test_by_age(films):
    for number, days in ((1, 10), (2, 5), (3, 1)):
        add(films, number, days=days)
    (done,) = pruned(films, age=4 * DAY)
    assert numbers(films) == [3]
    assert {item.key for item in done.taken} == {key(1), key(2)}
    assert done.size == survey(films.folder).size


def test_by_size_the_oldest_go_first_and_small_words_stay(films):
    add(films, 1, days=30, kind="contents", floats=0)
    for number, days in ((2, 1), (3, 9), (4, 5)):
        add(films, number, days=days)
    size = size_of(survey(films.folder).items)
    pruned(films, size=size - 1)
    assert numbers(films) == [1, 2, 4]
    pruned(films, size=0)
    assert numbers(films) == [1]
    pruned(films, age=DAY)
    assert numbers(films) == []


def test_what_is_small_enough_stays(films):
    add(films, 1, days=100)
    pruned(films, size=10**9)
    assert numbers(films) == [1]


def test_what_films_list_goes_last_and_only_if_agreed(films, tmp_path):
    for number, days in ((1, 50), (2, 40), (3, 30), (4, 1)):
        add(films, number, days=days)
    film(films, tmp_path / "there.mp4", [1])
    gone = film(films, tmp_path / "gone.mp4", [2], made=False)

    def one_less(*answer):
        return pruned(films, *answer, size=size_of(survey(films.folder).items) - 1)

    one_less()
    assert numbers(films) == [1, 2, 4]
    one_less()
    assert numbers(films) == [1, 2]
    done, plan = one_less(False)
    assert numbers(films) == [1, 2]
    assert [item.key for item in done.kept] == [key(2)]
    assert plan.films == (gone,)
    done, _ = one_less(True)
    assert numbers(films) == [1]
    assert done.manifests == (gone,)
    one_less(True)
    assert numbers(films) == []
    assert [one.path for one in read_manifests(films.folder)[0].values()] == [str(tmp_path / "there.mp4")]


def test_a_film_that_is_not_finished_keeps_its_chunks(films, tmp_path):
    add(films, 1, days=50)
    film(films, tmp_path / "a.mp4", [1], made=False, finished=False)
    pruned(films, False, age=DAY)
    assert numbers(films) == [1]


def test_manifests_of_films_that_are_gone_go_with_their_chunks(films, tmp_path):
    film(films, tmp_path / "gone.mp4", [1], made=False)
    film(films, tmp_path / "there.mp4", [2])
    done, *_ = pruned(films, age=DAY)
    assert [one.path for one in done.manifests] == [str(tmp_path / "gone.mp4")]
    assert len(read_manifests(films.folder)[0]) == 1


def test_damage_and_what_dead_writers_left_go_and_strangers_stay(films):
    add(films, 1)
    add(films, 2)
    path = entry_path(films.folder, "chunks", key(1))
    damaged = path.rename(path.with_name(f"{path.name}.damaged"))
    stranger = path.with_name("notes.txt")
    stranger.write_text("mine")
    with holds._taken(films.folder / "new"):
        left = next(films.folder.glob(".new.*"))
    left.mkdir()
    done, *_ = pruned(films, age=DAY)
    assert [item.path for item in done.damaged] == [damaged]
    assert not damaged.exists()
    assert not left.exists()
    assert stranger.exists()
    assert numbers(films) == [2]


def test_keys_of_any_machine_lead_only_to_what_is_there(films):
    for number, days in ((1, 9), (2, 9), (3, 0)):
        add(films, number, days=days)
        films.add_anywhere(key(7), key(number))
    films.add_anywhere(key(8), key(1))
    pruned(films, age=DAY)
    assert films.anywhere(key(7)) == (key(3),)
    assert not (films.folder / "anywhere" / "08" / key(8)).exists()


@pytest.mark.parametrize("how", ["read", "listed"])
def test_what_is_used_while_a_person_thinks_stays(how, films, tmp_path, monkeypatch):
    add(films, 1, days=9)
    add(films, 2, days=9)
    film(films, tmp_path / "a.mp4", [2])

    def ask(plan):
        with films.held():  # nobody waits for the answer
            if how == "read":
                assert films.read("chunks", key(1))
                assert films.read("chunks", key(2))
            else:
                film(films, tmp_path / "b.mp4", [1])
        return True

    prune.prune(films.folder, age=DAY, ask=ask)
    assert numbers(films) == {"read": [1, 2], "listed": [1]}[how]


def test_while_a_film_is_made_nothing_is_taken(films, monkeypatch):
    monkeypatch.setattr(holds, "PATIENCE", 0.0)
    add(films, 1, days=9)
    with films.held(), pytest.raises(FileError, match="in use"):
        prune.prune(films.folder, age=DAY, ask=lambda plan: True)
    assert numbers(films) == [1]


def test_what_can_not_be_removed_is_a_sentence(films, monkeypatch):
    add(films, 1, days=9)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prune.Path, "unlink", refused)
    monkeypatch.setattr(prune, "alone", lambda folder: nullcontext())
    with pytest.raises(FileError, match=r"can't be removed \(Permission denied\)"):
        prune.prune(films.folder, age=DAY, ask=lambda plan: True)
