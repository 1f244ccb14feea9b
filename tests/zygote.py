"""``python zygote.py SOCKET``: runs modules of this package in forks of a process that has imported them already.

Scripts that start a command many times are rehearsed through `client`, which stands in for the interpreter: what is
neither one of this package's modules nor pytest goes to the real one. Importing torch takes seconds, a fork none.
"""

import os
import runpy
import socket
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MOST = 1 << 16  # bytes of a request


def client(path: Path, address: Path) -> Path:
    """Write the program that takes the interpreter's place."""
    path.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable} -S
        import os, socket, sys
        if sys.argv[1:2] != ["-m"] or sys.argv[2].split(".")[0] not in ("spec_engine", "pytest"):
            os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
        with socket.socket(socket.AF_UNIX) as end:
            end.connect({str(address)!r})
            socket.send_fds(end, [repr((os.getcwd(), dict(os.environ), sys.argv[2:])).encode()], [0, 1, 2])
            sys.exit(int(end.recv(8) or b"1"))
        """),
        "utf-8",
    )
    path.chmod(0o755)
    return path


def serve(address: str) -> None:
    """Answer until killed."""
    sys.path.insert(0, str(ROOT))
    __import__("spec_engine.cli")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            request, files, _, _ = socket.recv_fds(connection, _MOST, 3)
            if not request:
                continue
            child = os.fork()
            if not child:
                os._exit(_run(request.decode(), files))
            _, status = os.waitpid(child, 0)
            for file in files:
                os.close(file)
            with suppress(OSError):  # a script that took too long was ended, its commands with it
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()


def _run(request: str, files: list[int]) -> int:
    """The child: the module as a program, with the caller's files, folder and environment. An error ends it."""
    folder, environment, arguments = eval(request, {"__builtins__": {}})  # what `client` wrote
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = arguments
    status = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = int(end.code or 0) if not isinstance(end.code, str) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve(sys.argv[1])
