"""The pages on training and sweeps and the example recipes say what the code takes: blocks, commands, keys, files."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import rich_click as click
import yaml

from lorascope.cli.main import main, run
from lorascope.data.recipes import LOCK_NAME, load_recipe
from lorascope.data.renamed_keys import RENAMED
from lorascope.data.sweeps import Sweep, load_sweep
from lorascope.errors import ConfigError
from lorascope.schema.recipe import DropoutPreset, LossName, MethodName
from lorascope.schema.sweep import Choose, SweepCompare, SweepPlan
from lorascope.training.cost import TrainingCost
from lorascope.workflows.sweep_runs import groups_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SWEEPS = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
SMALLEST: dict[str, Any] = {
    "version": 1,
    "base": "models/base",
    "out": "runs/one",
    "task": {"kind": "generate", "train": "train.jsonl"},
}
TEXTS = ["the quick brown fox jumps", "over the lazy dog", "the lazy fox", "the quick dog jumps over"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "topics": [{"text": text, "labels": ["art", "music"][: place % 3]} for place, text in enumerate(TEXTS)],
    "pairs": [{"text": text, "text_pair": text, "label": ["same", "other"][n % 2]} for n, text in enumerate(TEXTS)],
    "entities": [{"tokens": text.split()[:3], "tags": ["O", "B-ANIMAL", "O"]} for text in TEXTS],
    "questions": [{"question": text, "answer": "it is"} for text in TEXTS],
}


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_block_of_the_page_is_a_recipe_or_a_sweep(block: str, tmp_path: Path) -> None:
    """A block without a version shows some keys: the smallest recipe stands around them."""
    written = yaml.safe_load(block)
    if "recipe" in written:
        (tmp_path / written["recipe"]).write_text(yaml.safe_dump(SMALLEST), encoding="utf-8")
        (tmp_path / "sweep.yaml").write_text(block, encoding="utf-8")
        assert load_sweep(tmp_path / "sweep.yaml").points
        return
    whole = written if "version" in written else {**SMALLEST, **written}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").recipe.base == whole["base"]


def written_sweep(folder: Path, keys: dict[str, Any]) -> Sweep:
    """The sweep of these keys over the smallest recipe."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SMALLEST), encoding="utf-8")
    whole = {"version": 1, "out": "runs/sweep", "recipe": "recipe.yaml", **keys}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return load_sweep(folder / "sweep.yaml")


@pytest.mark.parametrize("block", blocks("yaml", SWEEPS))
def test_every_block_on_sweeps_is_one(block: str, tmp_path: Path) -> None:
    sweep = written_sweep(tmp_path, yaml.safe_load(block))
    assert len(sweep.points) > 1 or sweep.plan.sequence
    if sweep.choose is not None:
        assert all(len(group.values) > 1 for group in groups_of(sweep, sweep.choose, sweep.points))


def test_names_and_numbers_of_points_are_those_that_the_page_on_sweeps_says(tmp_path: Path) -> None:
    first, second = (yaml.safe_load(block) for block in blocks("yaml", SWEEPS)[:2])
    names = [point.name for point in written_sweep(tmp_path, first).points]
    assert (names[0], names[-1], len(names)) == ("r8-lr1e-4", "r32-lr3e-4", 4)
    assert len(written_sweep(tmp_path, second).points) == 5


def test_the_table_of_presets_names_their_points_and_rates() -> None:
    from lorascope.data.sweep_presets import PRESETS

    rows = {
        line.split("|")[1].strip(" `"): line
        for line in SWEEPS.split("## Presets\n", 1)[1].split("\n## ", 1)[0].splitlines()
        if line.startswith("| `") and "points" not in line
    }
    assert set(rows) == set(PRESETS)
    for example in ("multilabel-bert-lora", "replay"):
        recipe = load_recipe(ROOT / "examples" / "recipes" / f"{example}.yaml").recipe
        for name, make in PRESETS.items():
            preset = make(recipe)
            assert set(preset.points) <= set(re.findall(r"`([\w-]+)`", rows[name]))
            assert all(str(value) in rows[name] for values in preset.grid.values() for value in values)
            lists = preset.choose.values if preset.choose is not None else {}
            assert isinstance(lists, dict)
            for method, rates in lists.items():
                stated = re.search(rf"{method} ((?:\de-\d(?:, )?)+)", rows[name])
                assert stated is not None
                assert [float(rate) for rate in re.findall(r"\de-\d", stated[1])] == rates


def test_the_page_on_sweeps_names_every_key() -> None:
    for model in (SweepPlan, SweepCompare, Choose):
        for name, field in model.model_fields.items():
            assert re.search(rf"\b{field.alias or name}\b", SWEEPS), name


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash", SWEEPS) for line in block.splitlines() if line.strip()]
)
def test_every_command_on_sweeps_is_one(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line, comments=True)
    with main.commands[name].make_context(name, arguments, parent=click.Context(main)) as context:
        assert context.params["path"] == Path("sweep.yaml")


def test_a_sequence_of_another_form_is_told_the_right_one(tmp_path: Path) -> None:
    wrong: list[Any] = [
        ["a.jsonl", "b.jsonl"],
        None,
        {"first": "a.jsonl", "second": "b.jsonl"},
        {"first": {"task.train": "a.jsonl"}},
        {"first": {"train": "a.jsonl"}, "second": {"train": "b.jsonl"}},
        {"first": {"task": {"train": "a.jsonl"}}, "second": {"task": {"train": "b.jsonl"}}},
    ]
    for stages in wrong:
        with pytest.raises(ConfigError, match=r"sequence: \{first: \{task.train: a.jsonl, ") as caught:
            written_sweep(tmp_path, {"sequence": stages})
        told = (caught.value.remedy or "").partition("sequence: ")[2]
        assert set(written_sweep(tmp_path, {"sequence": yaml.safe_load(told)}).plan.sequence) == {"first", "second"}


def test_a_fault_of_a_dotted_key_in_a_stage_is_told_without_the_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'optim\.epoch'") as caught:
        written_sweep(tmp_path, {"sequence": {"one": {"optim.epochs": 1}, "two": {"optim.epoch": 1}}})
    assert "sequence: {" not in (caught.value.remedy or "")


def test_a_template_given_on_the_command_line_needs_the_quotes_that_the_page_says(tmp_path: Path) -> None:
    stated = re.search(r"`--set '(task\.prompt=.+?)'`", PAGE)
    assert stated is not None
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST), encoding="utf-8")
    assert load_recipe(path, [stated[1]]).recipe.task.prompt == "{question}"
    with pytest.raises(ConfigError, match=r"task\.prompt"):
        load_recipe(path, [stated[1].replace('"', "")])


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return lines + [line for line in re.findall(r"`(lorascope (?:train|curves) [^`]+)`", PAGE) if "…" not in line]


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_page_is_one(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    place = words.index("lorascope")
    for word in words[place:]:
        if word.endswith((".yaml", ".json", "runs/topics")) and "=" not in word:
            path = tmp_path / word
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if not path.suffix else path.touch()
    name, arguments = words[place + 1], words[place + 2 :]
    command = main.commands[name]
    with command.make_context(name, arguments, parent=click.Context(main)) as context:
        assert context.params
    if place:
        assert launched(words[:place]) == "lorascope"


def launched(words: list[str]) -> str:
    """The module that a launcher with these options starts."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args([*words[1:], "lorascope"])
    else:
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args([*words[2:], "lorascope"])
    assert given.module
    return str(given.training_script)


def test_the_tables_name_everything_that_can_be_chosen() -> None:
    rows = first_cells(section("Methods"))
    assert {cell.strip("`") for cell in rows if re.fullmatch(r"`[\w-]+`", cell)} >= set(get_args(MethodName))
    rows = first_cells(section("Losses"))
    assert {cell.split("`")[1] for cell in rows if "`" in cell} - {"loss.name"} == set(get_args(LossName))
    rows = first_cells(section("Structured dropout"))
    assert {cell.strip("`") for cell in rows if cell.startswith("`")} == set(get_args(DropoutPreset))


def test_learning_rates_are_those_of_the_sweep() -> None:
    from lorascope.data.sweep_presets import PRESETS

    names = {"`full`": "full", "`lora`": "lora", "`full` with `freeze: head-only`": "head-only"}
    rows = [[cell.strip() for cell in line.split("|")] for line in section("Methods").splitlines()]
    stated = {names[cells[1]]: cells[5] for cells in rows if len(cells) > 5 and cells[1] in names}
    recipe = load_recipe(ROOT / "examples" / "recipes" / "multilabel-bert-lora.yaml").recipe
    chosen = PRESETS["lora-vs-full"](recipe).choose
    assert chosen is not None
    assert isinstance(chosen.values, dict)
    for name, rates in chosen.values.items():
        low, high = re.findall(r"\de-\d", stated[name])
        assert (float(low), float(high)) == (min(rates), max(rates))


def test_presets_drop_what_the_table_says() -> None:
    from lorascope.schema.recipe import StructuredDropout

    for line in section("Structured dropout").splitlines():
        if not line.startswith("| `"):
            continue
        _, preset, attention, hidden, compensation, _ = (cell.strip() for cell in line.split("|"))
        found = StructuredDropout(preset=preset.strip("`")).resolved()  # type: ignore[arg-type]
        assert (found.attention is not None) == bool(attention)
        assert (found.hidden is not None) == bool(hidden)
        assert found.compensation == compensation
        for part, said in ((found.attention, attention), (found.hidden, hidden)):
            stated = re.search(r"\((\w+)\)", said)
            assert part is None or stated is None or part.structure == stated[1]


def test_the_page_names_every_field_of_the_cost() -> None:
    rows = " ".join(first_cells(section("A first recipe")))
    assert all(f"`{field.name}`" in rows for field in fields(TrainingCost))


def test_keys_of_other_tools_are_called_what_the_page_says() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([\w.]+)` \|$", section("Coming from transformers 4, PEFT or LLaMA-Factory"), re.M
    )
    assert len(rows) > 20
    assert {there: RENAMED.get(there) for there, _ in rows} == dict(rows)


def test_links_of_the_reference_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    reference = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    anchors = re.findall(r"\(training\.md#([\w-]+)\)", reference)
    assert anchors
    assert set(anchors) <= headings
    for target in re.findall(r"\]\(([^)#:]+)[)#]", PAGE + SWEEPS):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_recipe_trains_on_a_tiny_model(
    path: Path, llama: Any, bert: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands but for the base, which is on the hub, and for its length."""
    if "sweep" in path.stem:
        sweep = load_sweep(path)
        assert [point.name for point in sweep.points] == ["full", "r1", "r8", "r32", "head-only"]
        assert len(sweep.seeds) > 1
        return
    recipe = load_recipe(path).recipe
    topic = Path(recipe.task.train).parts[0]
    for source in {recipe.task.train, *recipe.validation_sets.values()}:
        target = tmp_path / source
        target.parent.mkdir(exist_ok=True)
        target.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[topic]), encoding="utf-8")
    (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    base = llama.base if recipe.task.kind == "generate" else bert.base
    settings = {"base": base, "optim.max_steps": 2, "optim.batch_size": 2, "optim.accumulate": 1, **short(recipe)}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert run(["train", str(tmp_path / path.name), "--json", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = Path(told["folder"])
    assert folder == tmp_path / recipe.out
    assert set(told["cost"]) == {field.name for field in fields(TrainingCost)}
    rows = " ".join(first_cells(section("A first recipe"))) + "…"
    unnamed = [found.name for found in folder.iterdir() if found.name not in rows and "token" not in found.name]
    assert not unnamed
    assert (folder / LOCK_NAME).is_file()


def short(recipe: Any) -> dict[str, Any]:
    """What makes a run short on a model of 192 positions and without a chat template."""
    if recipe.task.kind != "generate":
        return {"hardware.device": "cpu"}
    shorter: dict[str, Any] = {
        "hardware.device": "cpu",
        "task.chat": "false",
        "task.system": "null",
        "evaluation.probe": "[]",
        "evaluation.kl_to_base": 1,
    }
    return {**shorter, "replay.items": 4, "replay.max_new_tokens": 8} if recipe.replay else shorter
