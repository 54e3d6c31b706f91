"""The command, called in this process, and what it says of wrong input."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from raymrcnn.cli.main import app


def raymrcnn(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def done(*arguments: object) -> str:
    """What a command that goes well prints."""
    result = raymrcnn(*arguments)
    assert result.exit_code == 0, (result.exit_code, result.stderr, result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    """The one line in which a command refuses its input."""
    result = raymrcnn(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line.removeprefix("error: ")
