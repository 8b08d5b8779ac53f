"""Every form of training log, as its writer writes it, and how each is recognised."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.logs import Curve, find_growing_log, find_logs, find_runs, read_log, read_logs
from lorascope.data.logs.names import Role, role_of, split_metric
from lorascope.errors import DataError


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def jsonl(path: Path, rows: list[dict[str, Any]], end: str = "\n") -> Path:
    return written(path, end.join(json.dumps(row) for row in rows) + end)


def swift(step: int, **values: Any) -> dict[str, Any]:
    return {**values, "epoch": step / 10, "global_step/max_steps": f"{step}/20", "percentage": "5%"}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("loss", Role("train")),
        ("Training Loss", Role("train")),
        ("train/loss", Role("train")),
        ("eval_loss", Role("eval", "eval")),
        ("Validation Loss", Role("eval", "eval")),
        ("val/loss", Role("eval", "eval")),
        ("eval/Val 1_loss", Role("eval", "Val_1")),
        ("val2_loss", Role("eval", "val2")),
        ("eval_accuracy", Role("metric", "accuracy")),
        ("eval_runtime", None),
        ("eval/samples_per_second", None),
        ("eval_mem_cpu_alloc_delta", None),
        ("train/train_loss", None),
        ("test_loss", None),
        ("lr", Role("learning_rate")),
        ("train/epoch", Role("epochs")),
    ],
)
def test_what_a_name_stands_for(name: str, role: Role | None) -> None:
    assert role_of(name) == role


def test_a_metric_belongs_to_the_longest_set_that_it_begins_with() -> None:
    assert split_metric("val_long_f1", ["val", "val_long"]) == ("val_long", "f1")
    assert split_metric("f1", ["val"]) == ("eval", "f1")
    assert split_metric("valid", ["val"]) == ("eval", "valid")


def test_metrics_and_totals_of_a_trainer_state(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 1, "eval_a_loss": 1.0, "eval_a_f1": 0.5, "eval_a_runtime": 3.0, "eval_matrix": [[1]], "eval_bleu": 9},
        {"step": 2, "train_runtime": 1.0, "train_loss": 1.5},
    ]
    path = written(tmp_path / "trainer_state.json", json.dumps({"max_steps": 7, "log_history": rows}))
    log = read_log(path)
    assert log.metrics == {"a": {"f1": Curve((1,), (0.5,))}, "eval": {"bleu": Curve((1,), (9.0,))}}
    assert (log.total_steps, log.finished, log.format, log.x_name) == (7, True, "trainer_state.json", "step")
    assert read_log(written(tmp_path / "copy.txt", json.dumps({"log_history": rows}, indent=1))).train == log.train


def test_ms_swift(tmp_path: Path) -> None:
    rows = [
        swift(5, loss="1.5", token_acc=0.6, grad_norm=2.0, learning_rate="1e-4"),
        swift(10, loss=1.25, grad_norm="nan", learning_rate=9e-5),
        swift(10, eval_loss=1.1, eval_token_acc="0.7", eval_runtime=3.0),
        swift(20, train_runtime=9.0, train_loss=1.2),
    ]
    path = jsonl(tmp_path / "logging.jsonl", rows, end="\r\n")
    log = read_log(path)
    assert log.train == Curve((5, 10), (1.5, 1.25))
    assert log.eval == {"eval": Curve((10,), (1.1,))}
    assert log.metrics == {"eval": {"token_acc": Curve((10,), (0.7,))}}
    assert log.grad_norm == Curve((5, 10), (2.0, None))
    assert log.epochs.values == (0.5, 1.0)
    assert (log.total_steps, log.finished, log.format) == (20, True, "ms-swift")
    assert log.notes == ("NaN or infinite: 1 value.",)
    older = jsonl(tmp_path / "older.log", [{"loss": 2.0, "global_step": 1}, {"loss": 1.0, "global_step": 5}])
    assert read_log(older).train == Curve((1, 5), (2.0, 1.0))


def test_llamafactory_says_its_total(tmp_path: Path) -> None:
    log = read_log(jsonl(tmp_path / "trainer_log.jsonl", [{"current_steps": 5, "total_steps": 20, "loss": 2, "lr": 1}]))
    assert (log.total_steps, log.format, log.learning_rate.values) == (20, "LLaMA-Factory", (1.0,))


PRINTED = """\
Some weights were not initialised: ['score.weight']
config {'loss': 'bce', 'epoch': 5}
{'eval_steps': 50, 'learning_rate': 5e-05, 'aux_loss': 0.1}
{'loss': 1.0, 'learning_rate': 'auto'}

  0%|          | 0/30 [00:00<?, ?it/s]\r 33%|███▎      | 10/30 [00:05<00:10,  1.9it/s]
{'loss': '2.5', 'grad_norm': '1.2', 'learning_rate': '9e-05', 'epoch': '0.5'}
 66%|██████▋   | 20/30 [00:10<00:05]\r {'loss': 2.0, 'grad_norm': nan, 'learning_rate': 5e-05, 'epoch': 1.0}
{'eval_loss': 2.2, 'eval_accuracy': '0.25', 'eval_note': 'it\\'s "new"', 'eval_runtime': '3', 'epoch': 1.0}
{"loss": "1.5", "epoch": 1.5}
{'train_runtime': '9.5', 'train_loss': '1.9', 'epoch': '3'}
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_printed_rows_without_steps_are_numbered_and_that_is_said(tmp_path: Path, encoding: str) -> None:
    log = read_log(written(tmp_path / "train.out", PRINTED.replace("\n", "\r\n"), encoding))
    assert log.train == Curve((1, 2, 4), (2.5, 2.0, 1.5))
    assert log.eval == {"eval": Curve((3,), (2.2,))}
    assert log.grad_norm == Curve((1, 2), (1.2, None))
    assert log.metrics["eval"]["accuracy"] == Curve((3,), (0.25,))
    assert log.epochs.values == (0.5, 1.0, 1.0, 1.5)
    assert (log.x_name, log.format, log.finished) == ("log row", "printed rows", True)
    assert "names no steps" in log.notes[0]


def test_printed_rows_with_steps(tmp_path: Path) -> None:
    text = "INFO {'loss': 4.0, 'global_step/max_steps': '1/5'}\nTrain: 40%|███ | 2/5 {'eval_loss': 3.5, 'step': 2}"
    log = read_log(written(tmp_path / "out.txt", text))
    assert (log.train, log.eval["eval"]) == (Curve((1,), (4.0,)), Curve((2,), (3.5,)))
    assert (log.x_name, log.total_steps, log.format) == ("step", 5, "ms-swift")


def test_a_printed_run_that_was_resumed_goes_back_by_its_epochs(tmp_path: Path) -> None:
    rows = [("loss", 3.0, 0.1), ("loss", 2.0, 0.2), ("eval_loss", 4.0, 0.3), ("loss", 1.9, 0.3)]
    rows += [("loss", 1.5, 0.2), ("loss", 1.2, 0.3)]
    text = "\n".join(str({name: loss, "epoch": epoch}) for name, loss, epoch in rows)
    log = read_log(written(tmp_path / "out.txt", text))
    assert log.train == Curve((1, 2, 3), (3.0, 1.5, 1.2))
    assert log.eval == {}
    assert any("from epoch 0.3 to epoch 0.2, as a resumed run does; 3 values" in note for note in log.notes), log.notes


def test_rounded_epochs_do_not_tell_which_row_is_logged_again(tmp_path: Path) -> None:
    rows = [(4.0, 0.1), (3.0, 0.2), (2.0, 0.2), (1.0, 0.3), (1.5, 0.2)]
    text = "\n".join(str({"loss": loss, "epoch": epoch}) for loss, epoch in rows)
    assert read_log(written(tmp_path / "out.txt", text)).train.values == (4.0, 3.0, 2.0, 1.5)


def test_wandb_exports(tmp_path: Path) -> None:
    header = ["Step", "a - x - train/loss", "a - x - train/loss__MIN", "a - x - train/loss__MAX"]
    header += ["b - train/loss", "b - train/loss__MIN", "b - eval/val1_loss", "b - eval/f1", "b - system/gpu"]
    rows = [["10", "2.0", "1", "9", "3.0", "1", "", "", "55"], ["20", "NaN", "1", "9", "", "", "2.5", "0.5", "56"]]
    path = written(
        tmp_path / "wandb_export.csv", "\n".join(",".join(f'"{cell}"' for cell in row) for row in [header, *rows])
    )
    first, second = read_logs(path)
    assert (first.run, second.run, first.format) == ("a - x", "b", "W&B export")
    assert first.train == Curve((10, 20), (2.0, None))
    assert second.train == Curve((10,), (3.0,))
    assert second.eval == {"val1": Curve((20,), (2.5,))}
    assert second.metrics == {"eval": {"f1": Curve((20,), (0.5,))}}
    assert "need not be optimizer steps" in second.notes[0]
    with pytest.raises(DataError, match="2 runs: a - x, b"):
        read_log(path)


def test_wandb_exports_over_the_optimizer_step_or_none(tmp_path: Path) -> None:
    log = read_log(
        written(tmp_path / "a.csv", "train/global_step,r - eval/loss,r - eval/loss__MIN\n100,1.5,1\n200.0,1.2,1\n")
    )
    assert (log.eval["eval"], log.notes) == (Curve((100, 200), (1.5, 1.2)), ())
    other = "epoch,r - _step,r - _step__MIN,r - train/loss\n0.1,7,7,2.0\n"
    assert read_log(written(tmp_path / "b.csv", other)).train == Curve((7,), (2.0,))
    with pytest.raises(DataError, match="no steps for the run 'r': its x axis is 'epoch'") as caught:
        read_log(written(tmp_path / "c.csv", "epoch,r - train/loss\n0.1,2.0\n"))
    assert "global_step" in (caught.value.remedy or "")


def test_plain_csv(tmp_path: Path) -> None:
    text = "Step;Training Loss;Validation Loss;Accuracy\r\n50;No log;2.0;0.1\r\n\r\n100;1.5;1.9;0.2\r\n"
    log = read_log(written(tmp_path / "a.txt", text, "utf-8-sig"))
    assert (log.train, log.eval["eval"]) == (Curve((100,), (1.5,)), Curve((50, 100), (2.0, 1.9)))
    lightning = "epoch,step,lr,train_loss,val_loss,val_acc\n0,10,1e-3,2.0,,\n0,20,,,1.8,0.5\n"
    log = read_log(written(tmp_path / "metrics.csv", lightning))
    assert (log.train, log.eval["eval"]) == (Curve((10,), (2.0,)), Curve((20,), (1.8,)))
    assert (log.metrics["eval"]["acc"].values, log.learning_rate.values) == ((0.5,), (0.001,))
    history = "_step,train/global_step,train/loss\n0,10,2\n1,20,1\n"
    assert read_log(written(tmp_path / "history.csv", history)).train.steps == (10, 20)
    falling = "iteration,loss\n300,1.0\n200,2.0\n100,3.0\n0,4.0\n"
    assert read_log(written(tmp_path / "falling.csv", falling)).train == Curve((0, 100, 200, 300), (4.0, 3.0, 2.0, 1.0))
    keras = read_log(written(tmp_path / "keras.csv", "epoch,loss,val_loss\n0,2.0,2.1\n1,1.0,1.5\n"))
    assert (keras.x_name, keras.train.steps, keras.eval["eval"].steps) == ("log row", (1, 2), (1, 2))


@pytest.mark.parametrize(
    ("text", "problem", "where"),
    [
        ("step,loss,train_loss\n1,2,2\n", "several columns stand for one curve: loss, train_loss", "a.csv"),
        ("step,loss,loss\n1,2,2\n", "names a column twice: loss", "line 1"),
        ("step,loss\n1,2\n2,high\n", "'loss' is 'high', not a number", "line 3"),
        ("step,accuracy\n1,2\n", "holds no loss", "a.csv"),
        ("", "holds no loss", "a.csv"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, problem: str, where: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read_log(written(tmp_path / "a.csv", text))
    assert where in (caught.value.where or "")


def test_a_table_that_a_killed_run_left(tmp_path: Path) -> None:
    text = "step,loss,lr\n1,4,1\n2,3,1\n3,2,1\n2,2.5\nstep,loss,lr\n2,2.9,1\n3,1.9,1\n4,1.8"
    log = read_log(written(tmp_path / "a.csv", text))
    assert log.train == Curve((1, 2, 3), (4.0, 2.9, 1.9))
    assert log.notes[:2] == (
        "The last line is cut off and passed over.",
        "Passed over: 1 row with another number of cells than the header.",
    )
    assert "goes back from step 3 to step 2" in log.notes[2]


def test_a_resumed_run_drops_what_it_did_not_go_on_from(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 5.0 - step / 100} for step in range(10, 80, 10)]
    rows += [{"step": 50, "eval_loss": 4.0}, {"step": 70, "eval_loss": 9.0}]
    rows += [{"step": step, "loss": 1.0} for step in (55, 60, 60)]
    log = read_log(jsonl(tmp_path / "log.jsonl", rows))
    assert log.train == Curve((10, 20, 30, 40, 50, 55, 60), (4.9, 4.8, 4.7, 4.6, 4.5, 1.0, 1.0))
    assert log.eval["eval"] == Curve((50,), (4.0,))
    assert log.notes == (
        "The log goes back from step 70 to step 55, as a resumed run does; 3 values of losses logged before from there "
        "on no longer hold.",
        "Logged again at the same step: 1 loss; the later ones hold.",
    )


def test_rows_that_are_passed_over_are_counted(tmp_path: Path) -> None:
    rows = [{"loss": 9.0}, {"loss": 8.0, "step": 1}, {"loss": 7.0, "step": 1.5}, {"epoch": 3}, {"loss": 6.0, "step": 2}]
    log = read_log(jsonl(tmp_path / "log.jsonl", rows))
    assert log.train == Curve((1, 2), (8.0, 6.0))
    assert (log.notes, log.x_name) == (("Passed over: 2 rows without a step.",), "step")


def test_a_row_that_begins_behind_a_cut_one(tmp_path: Path) -> None:
    text = '{"step": 1, "loss": 3}\n{"step": 2, "lo{"step": 2, "loss": 2}\n{"step": 3, "loss": 1}'
    log = read_log(written(tmp_path / "log.jsonl", text))
    assert log.train == Curve((1, 2, 3), (3.0, 2.0, 1.0))
    assert log.notes == ("Cut off and passed over: 1 line.",)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", "[1]\n", "no JSON object"),
        ("a.jsonl", '{"step": 1, "loss": "high"}\n', "'loss' is 'high'"),
        ("a.jsonl", '{"step": 1}\n', "holds no loss"),
        ("a.jsonl", "[" * 100_000 + "\n{}", "nested too deeply"),
        ("a.json", '{"best": {"loss": 1.0}}', "no 'log_history'"),
        ("a.log", "loss went down: {'loss': 1.0, \n", "not known"),
        ("a.log", "\x00\x01loss{}", "it is no text"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_log(written(tmp_path / name, text))


def test_where_other_logs_are_found(tmp_path: Path) -> None:
    swift_log = jsonl(tmp_path / "v0" / "logging.jsonl", [swift(5, loss=1.0)])
    assert find_logs(tmp_path / "v0") == [swift_log]
    state = written(tmp_path / "v1" / "trainer_state.json", json.dumps({"log_history": [{"step": 1, "loss": 1.0}]}))
    growing = jsonl(tmp_path / "v1" / "trainer_log.jsonl", [{"current_steps": 1, "loss": 1.0}])
    (tmp_path / "empty").mkdir()
    assert find_logs(tmp_path / "v1") == [state]
    assert find_growing_log(tmp_path / "v1") == [growing]
    assert find_runs(tmp_path) == [tmp_path / "v0", tmp_path / "v1"]
    assert find_runs(tmp_path / "v1") == [tmp_path / "v1"]
    assert find_runs(tmp_path / "empty") == []


def test_events_of_several_runs_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / "runs" / name / "events.out.tfevents.1.host", "")
        assert find_logs(tmp_path / "runs" / name) == [tmp_path / "runs" / name]
    with pytest.raises(DataError, match="several runs"):
        find_logs(tmp_path)
    with pytest.raises(DataError, match="no event files"):
        read_log(tmp_path)


def test_without_tensorboard_events_are_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    path = written(tmp_path / "events.out.tfevents.1.host", "x" * 32)
    with pytest.raises(DataError, match="need the package tensorboard") as caught:
        read_log(path)
    assert "lorascope[tensorboard]" in (caught.value.remedy or "")
