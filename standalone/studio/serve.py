"""`sana-video studio`: ComfyUI's page in a browser, with this pack's nodes and no ComfyUI behind it."""

from __future__ import annotations

import asyncio
import signal
import webbrowser
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

# Nothing heavy is imported here: the command line asks this module for its options each time it starts.
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=_port, default=8189, help="8189 by default; 0 chooses a free one")
    add("--no-browser", action="store_true", help="only serve; open the address yourself")
    add("--base", type=Path, default=Path(), help="the folder with models/, input/, output/ and user/")
    add(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="also answer other machines; there is no password",
    )
    add("--front-end-root", type=Path, metavar="FOLDER", help="another version of the page's files")


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 2**16:
        return int(text)
    raise ArgumentTypeError(f"“{text}” is no port; take a number up to 65535")


def run(options: Namespace) -> int:
    """Returns 0 after Ctrl-C. Raises InputError when the page's files are missing or the port is taken."""
    from ...sana_video_core.errors import InputError
    from ...sana_video_core.files.places import is_folder
    from ..engine.graph import load_nodes

    frontend = _frontend(options.front_end_root)
    classes = load_nodes()

    import folder_paths

    from ..temp import own_temp
    from .page import Page

    if not is_folder(options.base):
        raise InputError(f"There is no folder “{options.base}”; create it, or name another with --base.")
    folder_paths.set_base_directory(str(options.base))
    page = Page(classes, frontend, local=options.listen in LOOPBACK)
    with own_temp():
        asyncio.run(_serve(page.app(), options))
    return 0


def _frontend(root: Path | None) -> Path:
    from importlib.util import find_spec

    from ...sana_video_core.errors import InputError
    from ...sana_video_core.files.places import is_file

    if root is None:
        package = find_spec("comfyui_frontend_package")
        if package is None or not package.submodule_search_locations:
            raise InputError("ComfyUI's page is not installed here: pip install comfyui-frontend-package")
        root = Path(package.submodule_search_locations[0], "static")
    if not is_file(root / "index.html"):
        raise InputError(f"“{root}” does not hold ComfyUI's page; it has no index.html.")
    return root


async def _serve(app: Any, options: Namespace) -> None:
    """Serve until Ctrl-C."""
    from aiohttp import web

    from ...sana_video_core.errors import InputError

    runner, stop = web.AppRunner(app, shutdown_timeout=2, access_log=None), asyncio.Event()
    await runner.setup()
    try:
        await web.TCPSite(runner, options.listen, options.port).start()
        with suppress(NotImplementedError, AttributeError):  # Windows raises KeyboardInterrupt instead
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
        host = f"[{options.listen}]" if ":" in options.listen else options.listen
        url = f"http://{host}:{runner.addresses[0][1]}"
        print(f"SANA-Video studio: {url} (Ctrl-C ends it)", flush=True)
        if not options.no_browser:
            # in a thread: some browsers keep the call until they end
            Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        await stop.wait()
    except OSError as error:
        raise InputError(
            f"{options.listen}, port {options.port}, cannot be served ({error.strerror or error}). If "
            "another studio or ComfyUI runs there, open that in a browser, or take another port: "
            f"--port {options.port % 65535 + 1}."
        ) from error
    finally:
        await runner.cleanup()
