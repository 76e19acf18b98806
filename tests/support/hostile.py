"""What the tests of hostile files and moments share."""

from __future__ import annotations

import pytest

from hire_compiler.cli import main


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 2, command
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1, err
    assert err.startswith("hire-compiler: ")
    assert "HIRE_TRACEBACK" not in err, err
    return err
