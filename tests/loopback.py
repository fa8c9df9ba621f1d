"""A web server on this machine, for tests of downloads."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _BreaksOff(_Quiet):
    """Promises whole files and sends half of each."""

    def copyfile(self, source: object, outputfile: object) -> None:
        content = source.read()  # type: ignore[attr-defined]
        outputfile.write(content[: len(content) // 2])  # type: ignore[attr-defined]


@contextmanager
def serving(folder: Path, *, breaks_off: bool = False) -> Iterator[str]:
    """The address at which a folder is served."""
    handler = functools.partial(_BreaksOff if breaks_off else _Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
