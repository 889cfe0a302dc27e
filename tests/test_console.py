import json
from pathlib import Path

import pytest

from iris_cli import console
from iris_cli.report import Report


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12_345, "12,345"),
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12_345.6, "12,346"),
        (1e-5, "1e-05"),
        (2.5e7, "2.5e+07"),
        (float("nan"), "nan"),
        (True, "True"),
        ("word", "word"),
    ],
)
def test_a_number_is_shown_as_people_write_it(value: float | int | str, shown: str) -> None:
    assert console.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h"), (363_000, "4.2 days"), (0, "0 s")]
)
def test_a_duration_has_one_unit(seconds: float, shown: str) -> None:
    assert console.duration(seconds) == shown


def test_a_long_error_with_brackets_stays_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("[red]data[/red] " + "long " * 100)

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: [red]data[/red] long")
    assert len(err.splitlines()) == 1


def test_a_report_is_shown_with_figures_files_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(
        stage="collect", figures={"mean_score": -20.5, "[odd]": "x"}, files={"dataset": Path("d[1].zarr")},
        notes=("nothing was trained",),
    )  # fmt: skip

    console.show(report)

    out, err = capsys.readouterr()
    assert "mean score" in out
    assert "-20.5" in out
    assert "dataset d[1].zarr" in out
    assert err == "Note: nothing was trained\n"


def test_a_stage_of_a_pipeline_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(stage="collect", figures=dict.fromkeys("abcdef", 1.5), files={"video": Path("o.mp4")})

    console.line(report, prefix="round 3/600", seconds=2.0)

    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert all(words in out for words in ("round 3/600", "collect", "d 1.5", "2.0 s", "o.mp4"))
    assert "e 1.5" not in out


def test_facts_as_json_are_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.facts("title", {"a": 1, "b": [1, 2], "c": None}, as_json=True)

    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": [1, 2], "c": None}


def test_progress_is_silent_and_counted_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("collect", 10, "steps", done=3) as bar:
        bar.advance(2, "fine")

    assert bar.done == 5
    assert bar.per_second > 0
    assert capsys.readouterr().out == ""
