"""Starting the viewer, with one line for what is missing."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from dv.errors import UserError
from dv.viewer.scene import Scene

if TYPE_CHECKING:
    from dv.viewer.server import Viewer


def start_viewer(scene: Scene, host: str, port: int) -> Viewer:
    """Serve a page of a scene; see :class:`dv.viewer.server.Viewer`.

    Raises:
        UserError: if viser is missing, the port is in use, or the object's cameras cannot be read.
    """
    try:
        from dv.viewer.server import Viewer
    except ImportError as error:
        raise UserError(f"the page needs {error.name}: pip install 'dv[viewer]'") from error
    check_port(host, port)
    return Viewer(scene, host, port)


def check_port(host: str, port: int) -> None:
    """Check that a server can listen at a port; viser would take the next free one without a word.

    Raises:
        UserError: if it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        what = f"{host}:{port} cannot be listened at: {error.strerror or error}"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(f"{what}; give another viewer.port, or viewer.port=0 for any free one") from error
        raise UserError(f"{what}; give another viewer.host, such as 127.0.0.1") from error
