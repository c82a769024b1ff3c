"""`sana-video studio` as a process: how it begins, refuses, ends, and that a workflow runs on it from
outside.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import folder_paths
import pytest
from conftest import command_line
from support.calibration import limit, until
from support.prompts import node

pytest.importorskip("aiohttp")
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.command_line.server import run_on_server


def with_page(folder):
    """A page of one line: the frontend is not needed here."""
    (folder / "page").mkdir()
    (folder / "page" / "index.html").write_text("the page")
    return folder


@pytest.fixture
def root(tmp_path):
    return with_page(tmp_path)


def command(root, *options):
    return command_line("studio", "--no-browser", "--base", root, *options)


@contextmanager
def begun(root):
    """(address, process) of one that runs."""
    options = ("--port", 0, "--front-end-root", root / "page")
    process = subprocess.Popen(
        command(root, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address, process.stderr.read()
    try:
        yield address[0], process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """The address of one that runs."""
    with begun(with_page(tmp_path_factory.mktemp("studio"))) as (address, _):
        yield address


@pytest.fixture
def said(capsys):
    """Runs the command in this process, where it refuses to serve: (status, what it said)."""

    def said(root, *options):
        words = ["studio", "--no-browser", "--base", root, *options]
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().err

    yield said
    folder_paths.set_base_directory(".")


def test_a_workflow_runs_on_it_from_outside_and_ctrl_c_ends_it(root):
    with begun(root) as (address, process):
        _run_and_end(address, process, root)


def _run_and_end(address, process, root):
    prompt = {
        "1": node("SanaVideoModelLoader", model_name="demo (built in)", family="auto"),
        "2": node("SanaVideoStart", model=["1", 0], width=128, height=128, batch_size=1),
        "3": node("SanaVideoStateInfo", state=["2", 0]),
    }
    assert run_on_server(address, lambda info: (prompt, {}), root / "fetched") == []
    assert list((root / "temp").rglob("*.png"))  # the filmstrip
    sampler = node(
        "SanaVideoBlockSampler", model=["1", 0], positive=["4", 0], state=["2", 0], chunks=40, seed=0
    )
    sampler["inputs"] |= {"steps": 4, "sampler": "few_step", "on_prompt_change": "recache"}
    text = node(
        "SanaVideoTextEncode", text="a ball", motion_score=0, instruction=False, text_encoder=["5", 0]
    )
    encoder = node("SanaVideoTextEncoderLoader", encoder_name="demo (built in)")
    prompt |= {"4": text, "5": encoder, "6": sampler, "7": node("SanaVideoStateInfo", state=["6", 1])}
    words = []

    def run_and_hear():
        try:
            run_on_server(address, lambda info: (prompt, {}), root / "fetched")
        except Exception as error:
            words.append(str(error))

    other = threading.Thread(target=run_and_hear)
    other.start()
    until(lambda: b'"in_progress"' in get(f"{address}/api/jobs?status=in_progress"))
    process.send_signal(signal.SIGINT)  # in the middle of a job
    assert process.wait(limit(20)) == 0
    other.join(limit(20))
    assert len(words) == 1
    assert re.search(r"stopped|closed the connection|No ComfyUI answers", words[0])
    assert not (root / "temp").exists()


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def test_the_command_answers_to_names_of_this_machine_only(studio):
    asked = urllib.request.Request(f"{studio}/api/jobs", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked)


def test_told_to_listen_it_answers_to_any_name(root):
    options = ("--port", 0, "--front-end-root", root / "page", "--listen", "0.0.0.0")
    process = subprocess.Popen(command(root, *options), stdout=subprocess.PIPE, text=True)
    try:
        port = re.search(r":(\d+) ", process.stdout.readline())[1]
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/jobs", headers={"Host": "studio.example"}
        )
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        assert process.wait(limit(20)) == 0


def test_a_second_one_on_the_same_port_says_so(studio, root, said):
    port = studio.rpartition(":")[2]
    status, words = said(root, "--port", port, "--front-end-root", root / "page")
    assert status == 1
    assert words.startswith("sana-video: ")
    assert f"port {port}, cannot be served" in words
    assert f"--port {int(port) % 65535 + 1}" in words


def test_what_it_refuses(root, said):
    empty = ("--front-end-root", root)
    assert "no index.html" in said(root, *empty)[1]
    page = ("--front-end-root", root / "page")
    assert "There is no folder" in said(root / "nowhere", *page)[1]
    status, words = said(root, *page, "--port", "70000")
    assert (status, "is no port" in words) == (2, True)
    status, words = said(root, *page, "--listen", "203.0.113.1", "--port", 0)  # an address of nobody here
    assert (status, "cannot be served" in words) == (1, True)


def test_without_the_frontend_it_says_what_to_install(root, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfyui_frontend_package", None)
    status, words = said(root)
    assert status == 1
    assert "pip install comfyui-frontend-package" in words


def test_the_browser_is_opened_unless_told(root):
    """webbrowser takes its program from the environment."""
    seen = root / "seen"
    (root / "browser").write_text(f"#!/bin/sh\necho $1 > {seen}\n")
    (root / "browser").chmod(0o755)
    words = [
        word
        for word in command(root, "--port", 0, "--front-end-root", root / "page")
        if word != "--no-browser"
    ]
    environment = {**os.environ, "BROWSER": f"{root / 'browser'} %s"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        until(lambda: seen.exists() and seen.read_text())
        assert seen.read_text().strip() == address
    finally:
        process.terminate()
        assert process.wait(limit(20)) == 0


def test_nobody_else_can_reach_it(studio):
    port = int(studio.rpartition(":")[2])
    with socket.socket() as other:
        other.settimeout(5)
        name = socket.gethostbyname(socket.gethostname())
        if name.startswith("127."):
            pytest.skip("this machine has no other address")
        with pytest.raises(OSError, match="refused"):
            other.connect((name, port))
