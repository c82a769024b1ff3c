"""Other languages: every word is there, in the order of the schemas, and names are the English ones."""

import json
import re
from pathlib import Path

import pytest
from comfyui_sana_video import nodes
from comfyui_sana_video.standalone.studio.translations import translations
from support.locale_words import english
from support.pack import ROOT

LOCALES = ROOT / "locales"
# of the page's languages; it has no German
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "es", "ru", "pt-BR")
LATIN = ("fr", "es", "pt-BR")
OURS = {"film", "stream", "decode", "state"}  # ComfyUI has words for the other categories
CODE = re.compile(
    r"models/\w+|https?://\S+|`[^`]+`|\.(?:pth|safetensors|mp4|png)\b|SamplerCustomAdvanced|KSampler"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def read(language: str, name: str):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def leaves(words, place=()):
    for key, value in words.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key), value


@pytest.fixture(scope="module")
def source():
    return english(nodes.NODES)


def test_languages_are_those_of_the_page():
    assert {path.name for path in LOCALES.iterdir()} == set(LANGUAGES)
    assert set(translations(LOCALES)) == set(LANGUAGES)


def problems(words, source, language):
    """What a translation lacks: keys in their order, words, and names that are the same in all languages."""
    mine, theirs = dict(leaves(words)), dict(leaves(source))
    if list(mine) != list(theirs):
        yield f"keys: {sorted(set(mine) ^ set(theirs))}"
        return
    for place, text in theirs.items():
        given, what = mine[place], place[-1]
        if not given.strip() or (given == text and what in ("tooltip", "description")):
            yield f"{place} isn't translated"
        if re.search(r"[{}@|]", given) and not re.search(r"[{}@|]", text):
            yield f"{place} has what the page takes for a placeholder: {given}"
        yield from (f"{place} lacks {name}" for name in set(CODE.findall(text)) if name not in given)
        numbers = NUMBER.findall(given.replace(",", "."))  # 2,5 in French is 2.5
        yield from (f"{place} lacks {number}" for number in set(NUMBER.findall(text)) - set(numbers))
        if language not in LATIN and what in ("tooltip", "description") and given.isascii():
            yield f"{place} is in Latin letters"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_there(language, source):
    assert list(problems(read(language, "nodeDefs"), source, language)) == []
    main = read(language, "main")
    assert set(main["nodeCategories"]) == OURS
    assert set(main["dataTypes"]) == {"SANA_STATE", "SANA_TEXT_ENCODER"}
    assert all(isinstance(text, str) and text for _, text in leaves(main))


def test_a_glossary_has_the_pack_s_terms_in_every_language():
    terms = {language: set(read(language, "glossary")) for language in LANGUAGES}
    assert {"state", "chunk", "shot", "cut", "recache", "store"} <= terms["zh"]
    assert all(each >= terms["zh"] for each in terms.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_titles_tell_the_nodes_apart(language):
    titles = [node["display_name"] for node in read(language, "nodeDefs").values()]
    assert len(set(titles)) == len(titles)


def test_a_mistake_is_noticed(source):
    def spoilt(change):
        words = json.loads(json.dumps(read("ja", "nodeDefs")))
        change(words["SanaVideoModelLoader"])
        return list(problems(words, source, "ja"))

    tooltip = ("inputs", "model_name", "tooltip")
    text = source["SanaVideoModelLoader"]["inputs"]["model_name"]["tooltip"]
    assert spoilt(lambda node: node["inputs"].pop("kernels"))
    assert spoilt(lambda node: node[tooltip[0]][tooltip[1]].update(tooltip=text))
    assert spoilt(lambda node: node[tooltip[0]][tooltip[1]].update(tooltip="モデル {name}"))
    assert spoilt(lambda node: node[tooltip[0]][tooltip[1]].update(tooltip="モデルのファイル"))


def test_another_number_is_noticed(source):
    words = read("fr", "nodeDefs")
    chunk = words["SanaVideoScript"]["inputs"]["fps"]
    chunk["tooltip"] = chunk["tooltip"].replace("2,5", "5,2")
    (said,) = problems(words, source, "fr")
    assert said.endswith("lacks 2.5")


def test_help_pages_of_a_language_are_whole():
    """ComfyUI's page asks for docs/NODE/LANGUAGE.md, and takes docs/NODE.md where there is none."""
    pages = sorted((ROOT / "web" / "docs").glob("*/*.md"))
    ids = {node.GET_NODE_INFO_V1()["name"] for node in nodes.NODES}
    for language in {path.stem for path in pages}:
        assert {path.parent.name for path in pages if path.stem == language} == ids
    assert all(Path(path).read_text(encoding="utf-8").startswith("# ") for path in pages)
