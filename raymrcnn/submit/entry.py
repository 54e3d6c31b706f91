"""What a submitted job runs: the command line that it was given, in the folder it was given in.

    python -m raymrcnn.submit.entry

The words come in an environment variable, as a list: a job's entry point is a line for a shell, and
no such line is made of what a user typed. Does not parse them: the command does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from raymrcnn import __version__
from raymrcnn.errors import ClusterError, RaymrcnnError

REQUEST = "RAYMRCNN_JOB"


def request_text(words: list[str], folder: str) -> str:
    """The value of `REQUEST`.

    Args:
        words: of the command line, without the program.
        folder: that relative paths in `words` start from.
    """
    return json.dumps({"words": words, "folder": folder, "version": __version__})


def read_request(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The words and the folder.

    Raises:
        ClusterError: there is no request, or another version of raymrcnn made it.
    """
    try:
        request = json.loads(environment[REQUEST])
        words, folder, version = request["words"], request["folder"], request["version"]
    except (KeyError, TypeError, ValueError):
        raise ClusterError(
            "this is started by `--cluster http://HEAD:8265`, and was not",
            where=REQUEST,
            todo="run `raymrcnn` itself",
        ) from None
    if version != __version__:
        raise ClusterError(
            f"raymrcnn {version} submitted this, and the cluster has raymrcnn {__version__}",
            where="--cluster",
            todo="install the same version on both",
        )
    return words, folder


def main() -> None:
    """Become the command."""
    try:
        words, folder = read_request(os.environ)
    except RaymrcnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    try:
        os.chdir(folder)
    except OSError:
        print(
            f"note: {folder} is not on this machine; relative paths will not be found", flush=True
        )
    del os.environ[REQUEST]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "raymrcnn.cli.main", *words])


if __name__ == "__main__":
    main()
