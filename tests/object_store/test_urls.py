"""What a text leads to: a path, a place in an object store, or one line that says why not."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from click.testing import Result

from iris_cli import load_agent
from iris_cli.errors import ConfigError, IrisError, StoreError
from iris_cli.object_store import StoreURL, located, look, put
from iris_cli.plan import make_plan
from iris_cli.replay.dataset import Dataset

URL = "s3://bucket/runs/pong.zarr"


def test_a_url_is_joined_and_taken_apart_like_a_path() -> None:
    url = located(URL)

    assert isinstance(url, StoreURL)
    assert (str(url), url.bucket, url.key) == (URL, "bucket", "runs/pong.zarr")
    assert (url.name, url.stem, url.suffix) == ("pong.zarr", "pong", ".zarr")
    assert str(url.parent / "other" / Path("a/b")) == "s3://bucket/runs/other/a/b"
    assert str(url.with_name("x")) == "s3://bucket/runs/x"
    assert pickle.loads(pickle.dumps(url)) == url
    assert located(url) is url


def test_a_slash_that_a_path_ate_is_given_back() -> None:
    assert located(Path(URL)) == located(URL)


@pytest.mark.parametrize("text", ["runs/pong", "/tmp/x", "C:/x", "file:/x", "a:b", "~/x"])
def test_other_texts_are_paths(text: str) -> None:
    assert located(text) == Path(text)


def test_a_file_url_is_a_path() -> None:
    assert located("file:///tmp/a%20b") == Path("/tmp/a b")


@pytest.mark.parametrize("text", ["gs://b/x", "https://h/x", "s3://", "s3://bucket", "s3://bucket/", "s3://b/../x"])
def test_other_urls_are_refused_in_one_line(text: str, command: Callable[..., Result]) -> None:
    result = command("info", text)

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert "s3://" in result.stderr


def test_a_url_cannot_be_taken_for_a_file_of_this_machine() -> None:
    with pytest.raises(TypeError, match="no file of this machine"):
        os.fspath(located(URL))


def test_pictures_and_films_are_files_of_this_machine(command: Callable[..., Result]) -> None:
    result = command("curve", "runs/x", "--out", "s3://bucket/curve.png")

    assert result.exit_code == 1
    assert "this must be a path" in result.stderr


def test_a_pipeline_names_its_dataset_and_run_by_urls(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "game: Pong\nagent: iris\ndataset: s3://b/data/{game}.zarr\nrun: s3://b/runs/{agent}-{game}-{seed}\n"
        "first: [{collect: {steps: 10}}, {diagnose: {dataset: s3://b/data/other.zarr}}]\n"
    )

    plan = make_plan(file, assignments=("seed=3",))

    assert (str(plan.dataset), str(plan.run)) == ("s3://b/data/pong.zarr", "s3://b/runs/iris-pong-3")
    assert isinstance(plan.stages[1].settings.dataset, StoreURL)
    assert str(make_plan(file, assignments=("run=s3://c/x",)).run) == "s3://c/x"


@pytest.mark.parametrize(
    "arguments",
    [("info", URL), ("evaluate", "--run", URL), ("collect", "--env", "Pong", "--out", URL), ("report", URL)],
    ids=lambda arguments: arguments[0],
)
def test_without_the_extra_one_line_names_it(
    arguments: tuple[str, ...], command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)

    result = command(*arguments)

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'iris-wm[s3]'" in result.stderr


def test_what_is_not_there_is_said_with_its_url(bucket: StoreURL) -> None:
    with pytest.raises(IrisError, match=f"no dataset. In {bucket}"):
        Dataset.open(bucket)
    with pytest.raises(IrisError, match=f"no run here. In {bucket}"):
        load_agent(bucket)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no such bucket"):
        Dataset.open("s3://there-is-none/x")


def test_without_credentials_one_line_says_so(bucket: StoreURL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY"):
        bucket.exists()


def test_an_object_is_only_replaced_where_it_is_what_is_known(bucket: StoreURL) -> None:
    first = put(bucket, b"1", new=True)
    second = put(bucket, b"2", replacing=first)

    assert put(bucket, b"2", replacing=first) == second  # whose answer was lost
    for known in ({"new": True}, {"replacing": first}):
        with pytest.raises(StoreError, match="somebody else wrote here"):
            put(bucket, b"3", **known)  # type: ignore[arg-type]
    assert bucket.read_bytes() == b"2"


def test_a_server_that_compares_tags_without_their_quotes_is_understood(
    bucket: StoreURL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph 16 does: to it, the tag that it gave is never the object's own."""
    if os.environ.get("IRIS_TEST_S3"):
        pytest.skip("a server that does so by itself, or not, needs no stub")
    real, asked = obstore.put, list[str]()

    def of_ceph(client: Any, key: str, content: Any, *, mode: Any) -> Any:
        if isinstance(mode, dict):
            tag = mode["e_tag"]
            asked.append(tag)
            mode = {"e_tag": "unlike" if tag.startswith('"') else f'"{tag}"'}
        return real(client, key, content, mode=mode)

    monkeypatch.setattr(obstore, "put", of_ceph)
    tag = put(bucket, b"1", new=True)
    for content in (b"2", b"3"):
        stale, tag = tag, put(bucket, content, replacing=tag)

    with pytest.raises(StoreError, match="somebody else wrote here"):
        put(bucket, b"4", replacing=stale)
    assert bucket.read_bytes() == b"3"
    assert [each.startswith('"') for each in asked] == [True, False, False, False]  # it is remembered


def test_a_bad_patience_is_refused(line: object, bucket: StoreURL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_STORE_SECONDS", "long")
    line.cut()  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match="IRIS_STORE_SECONDS"):
        look(bucket)
