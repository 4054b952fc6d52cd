"""What Ray prints of itself is not on standard output, whose lines are a command's answer."""

import sys
import threading

import typer

from infra.ray_words import Apart, set_apart


def test_a_thread_of_rays_writes_to_stderr_and_all_others_where_they_did(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    set_apart()
    first = sys.stdout
    set_apart()
    assert sys.stdout is first and isinstance(first, Apart)
    for name in ("ray_listen_error_messages", "other"):
        thread = threading.Thread(target=print, args=(name,), name=name)
        thread.start()
        thread.join()
    typer.echo("answer")
    out, err = capsys.readouterr()
    assert (out, err) == ("other\nanswer\n", "ray_listen_error_messages\n")
