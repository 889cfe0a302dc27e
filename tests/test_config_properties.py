"""Settings survive YAML and --set whatever their values, and what is no setting is an IrisError and nothing else."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_cli.agents import AGENTS, config_for, presets_for, section_presets_for
from iris_cli.config import convert, dump_yaml, from_mapping, load_yaml, parse_assignments, to_mapping, updated
from iris_cli.errors import ConfigError, IrisError
from iris_cli.open_run import configured
from iris_cli.plan import SETTINGS, make_plan

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


def where(*keys: str) -> str:
    return ".".join(keys)


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting of an agent: where it is, and its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, field.name))
        else:
            yield (*path, field.name), value


ALL_LEAVES = [(agent, *leaf) for agent in AGENTS for leaf in leaves(config_for(agent))]


@pytest.mark.parametrize("agent", AGENTS)
def test_every_preset_survives_yaml_and_json(agent: str, tmp_path: Path) -> None:
    for config in presets_for(agent).values():
        (tmp_path / "c.yaml").write_text(dump_yaml(to_mapping(config)))
        for plain in (load_yaml(tmp_path / "c.yaml").data, json.loads(json.dumps(to_mapping(config)))):
            assert updated(config_for(agent), plain, where=where, presets={}) == config


@given(st.sampled_from(ALL_LEAVES), st.data())
def test_a_setting_that_is_taken_reads_the_same_from_yaml_and_from_set(leaf: Any, data: st.DataObject) -> None:
    """Whichever way a number is given, the same settings come out of it, or the same kind of error."""
    agent, path, value = leaf
    if not isinstance(value, bool | int | float | str):
        return
    drawn = data.draw(
        st.booleans() if isinstance(value, bool)
        else st.integers(-3, 10**6) if isinstance(value, int)
        else st.floats(-2, 2, allow_nan=False) if isinstance(value, float)
        else st.sampled_from([value, "float32", "bfloat16", "none"])
    )  # fmt: skip
    tree: Any = drawn
    for name in reversed(path):
        tree = {name: tree}

    def outcome(changes: dict[str, Any]) -> Any:
        try:
            return updated(config_for(agent), changes, where=where, presets=section_presets_for(agent))
        except ConfigError as error:
            return error.what

    typed = outcome(
        parse_assignments([f"{'.'.join(path)}={drawn if not isinstance(drawn, bool) else str(drawn).lower()}"])
    )
    assert typed == outcome(tree)
    if not isinstance(typed, str):
        assert updated(config_for(agent), to_mapping(typed), where=where, presets={}) == typed


@given(trees)
def test_any_tree_is_settings_or_an_error_of_ours(tree: Any) -> None:
    for agent in AGENTS:
        config = config_for(agent)
        names = [field.name for field in dataclasses.fields(config)]
        for changes in (
            tree,
            {names[1]: tree},
            {names[1]: {dataclasses.fields(getattr(config, names[1]))[1].name: tree}},
        ):
            with suppress(IrisError):
                updated(config, changes, where=where, presets=section_presets_for(agent))


@given(st.sampled_from(sorted(SETTINGS)), trees)
def test_any_tree_is_a_stages_settings_or_an_error_of_ours(stage: str, tree: Any) -> None:
    fields = [field.name for field in dataclasses.fields(SETTINGS[stage])]
    for mapping in (tree, *({name: tree} for name in fields)):
        with suppress(IrisError):
            from_mapping(SETTINGS[stage], mapping, where=where, called=stage)


@given(st.lists(st.text(max_size=30) | st.from_regex(r"[a-z_.]{1,30}=[a-z0-9.,-]{0,9}", fullmatch=True), max_size=4))
def test_any_assignments_are_settings_or_an_error_of_ours(texts: list[str]) -> None:
    with suppress(IrisError):
        configured("iris", "published", parse_assignments(texts))


@given(st.dictionaries(words.filter(lambda word: word not in dir(config_for("iris"))), scalars, min_size=1, max_size=2))
def test_a_name_that_is_no_setting_is_named_in_the_error(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown setting"):
        updated(config_for("iris"), tree, where=where, presets={})


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:_}", "{:,}", " {} ", "{}.0", "{:e}"]))
def test_whole_numbers_are_read_however_they_are_written(number: int, form: str) -> None:
    text = form.format(number)
    expected = int(float(text)) if "e" in text else number

    assert convert(text, int, where="x", name="n") == expected


@given(trees)
def test_plain_values_survive_yaml(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "t.yaml"
    path.write_text(dump_yaml({"a": tree}), encoding="utf-8")

    try:
        found = load_yaml(path).data
    except ConfigError:  # two keys that are one word as text, such as 1 and "1"
        return
    assert repr(found) == repr({"a": tree})


stages = st.dictionaries(
    st.sampled_from([*SETTINGS, "colect"]),
    st.none() | st.dictionaries(st.sampled_from(["steps", "updates", "episodes", "every", "from", "until"]), scalars),
    max_size=2,
) | st.sampled_from([*SETTINGS])
pipelines = st.fixed_dictionaries(
    {},
    optional={
        "agent": st.sampled_from(AGENTS) | scalars, "game": st.sampled_from(["Pong", "a:B"]) | scalars,
        "seed": st.integers(-1, 3) | scalars, "preset": st.sampled_from(["tiny", "small"]) | scalars,
        "dataset": st.sampled_from(["d/{game}.zarr", "{nobody}", "{", "{seed:9}"]) | scalars, "run": words | scalars,
        "rounds": st.integers(-1, 3) | scalars, "first": st.lists(stages, max_size=2) | trees,
        "round": st.lists(stages, max_size=3) | trees, "then": st.lists(stages, max_size=2) | trees,
        "settings": st.dictionaries(st.sampled_from(["tokenizer", "dynamics"]), trees) | trees, "log": trees,
    },
)  # fmt: skip


@given(pipelines | trees)
def test_any_pipeline_file_is_a_plan_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "p.yaml"
    path.write_text(dump_yaml(tree), encoding="utf-8")

    try:
        plan = make_plan(path)
    except IrisError:
        return
    assert plan.stages
    assert [planned.round for planned in plan.stages if planned.phase == "round"] == sorted(
        planned.round or 0 for planned in plan.stages if planned.phase == "round"
    )


def test_aliases_that_stand_for_more_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))

    with pytest.raises(ConfigError, match="more than 20,000 values"):
        load_yaml(tmp_path / "laughs.yaml")


@pytest.mark.parametrize("template", ["{seed:>9999999999}", "{game.__class__}", "{0}", "{", "{game!r}", "{}", "}"])
def test_a_path_knows_names_in_braces_and_no_formats(tmp_path: Path, template: str) -> None:
    (tmp_path / "p.yaml").write_text(f"game: Pong\nrun: 'runs/{template}'\nthen: [{{collect: {{steps: 1}}}}]\n")

    with pytest.raises(ConfigError, match="names something unknown"):
        make_plan(tmp_path / "p.yaml")


def test_rounds_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("game: Pong\nrounds: 10000000000\nround: [{collect: {steps: 1}}]\n")

    with pytest.raises(ConfigError, match="more than the 1,000,000 stages"):
        make_plan(tmp_path / "p.yaml")


def test_a_name_that_looks_like_a_date_is_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("run: 2026-11-21\nat: 2001-99-99\n")

    assert load_yaml(tmp_path / "x.yaml").data == {"run": "2026-11-21", "at": "2001-99-99"}


def test_a_number_with_too_many_digits_to_show_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"game: Pong\nseed: 0x{'f' * 5000}\nthen: [collect]\n")

    with pytest.raises(ConfigError, match="has more than 64 bits"):
        make_plan(tmp_path / "p.yaml")
