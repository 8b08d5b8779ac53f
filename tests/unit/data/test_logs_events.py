"""TensorBoard event files, written by TensorBoard's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorascope.data.logs import Curve, LogTail, read_log
from lorascope.errors import DataError

pytest.importorskip("tensorboard")


def event(step: int, **tags: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag.replace("__", "/"), simple_value=value) for tag, value in tags.items()]
    return Event(step=step, wall_time=float(step), summary=Summary(value=values))


def append(path: Path, *events: Any) -> Path:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        writer = RecordWriter(file)
        if not file.tell():
            writer.write(Event(file_version="brain.Event:2").SerializeToString())
        for each in events:
            writer.write(each.SerializeToString())
        writer.flush()
    return path


def tensor(step: int, tag: str, value: Any) -> Any:
    import numpy as np
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    made = Summary.Value(tag=tag, tensor=make_tensor_proto(np.array(value, dtype=np.float32)), metadata=metadata)
    return Event(step=step, summary=Summary(value=[made]))


FIRST = [
    event(10, train__loss=2.0, train__grad_norm=1.5, train__learning_rate=0.5, train__epoch=0.25),
    event(10, eval__val1_loss=1.75, eval__val1_f1=0.5, eval__runtime=9.0),
    event(20, train__loss=float("nan"), other__thing=3.0),
]


def test_scalars_of_a_folder(tmp_path: Path) -> None:
    append(tmp_path / "events.out.tfevents.100.host.1.0", *FIRST)
    append(
        tmp_path / "events.out.tfevents.200.host.1.0",
        event(15, train__loss=1.5),
        tensor(20, "train/loss", 1.25),
        tensor(20, "eval/val1_loss", [1.0, 2.0]),
        event(20, train__train_loss=1.4, train__train_runtime=3.0),
    )
    log = read_log(tmp_path)
    assert log.train == Curve((10, 15, 20), (2.0, 1.5, 1.25))
    assert log.eval == {"val1": Curve((10,), (1.75,))}
    assert log.metrics == {"val1": {"f1": Curve((10,), (0.5,))}}
    assert (log.grad_norm.values, log.learning_rate.values, log.epochs.values) == ((1.5,), (0.5,), (0.25,))
    assert (log.format, log.finished, log.source) == ("TensorBoard", True, tmp_path)
    assert "goes back from step 20 to step 15" in log.notes[0]


def test_a_file_of_another_name_that_grows_within_a_record(tmp_path: Path) -> None:
    path = append(tmp_path / "log.bin", *FIRST)
    whole = path.read_bytes()
    more = append(tmp_path / "more", event(30, train__loss=0.5)).read_bytes()
    record = more[len(append(tmp_path / "none").read_bytes()) :]
    path.write_bytes(whole + record[:9])
    tail = LogTail(path)
    log = tail.poll()
    assert log is not None
    assert log.train == Curve((10, 20), (2.0, None))
    assert tail.poll() is None
    with path.open("ab") as file:
        file.write(record[9:])
    log = tail.poll()
    assert log is not None
    assert log.train == Curve((10, 20, 30), (2.0, None, 0.5))
    path.unlink()
    append(path, event(1, train__loss=4.0))
    log = tail.poll()
    assert log is not None
    assert log.train == Curve((1,), (4.0,))


def test_the_writer_of_torch(tmp_path: Path) -> None:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 4):
            writer.add_scalar("train/loss", 1 / step, step)
        writer.add_text("args", "{}")
        writer.add_histogram("weights", np.array([1.0, 2.0, 3.0]), 1)
    assert read_log(tmp_path).train == Curve((1, 2, 3), (1.0, 0.5, pytest.approx(1 / 3)))


def test_a_longer_file_in_the_same_place_on_the_disk_is_read_anew(tmp_path: Path) -> None:
    path = append(tmp_path / "events.out.tfevents.1", *FIRST)
    longer = append(tmp_path / "longer", *[event(step, train__loss=4.0) for step in range(1, 40)]).read_bytes()
    tail = LogTail(path)
    assert tail.poll() is not None
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(longer)
    log = tail.poll()
    assert log is not None
    assert log.train.steps == tuple(range(1, 40))


def test_a_record_that_is_no_event_stays_an_error(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    path = append(tmp_path / "events.out.tfevents.1", *FIRST)
    with path.open("ab") as file:
        RecordWriter(file).write(b"\xff" * 20)
    append(path, event(30, train__loss=0.5))
    tail = LogTail(path)
    for _ in range(2):
        with pytest.raises(DataError, match="broken") as caught:
            tail.poll()
        assert caught.value.where == str(path)


@pytest.mark.parametrize("tag", ["train/loss", "weights"])
def test_a_tensor_that_says_to_be_huge_is_passed_over(tmp_path: Path, tag: str) -> None:
    huge = tensor(30, tag, 1.0)
    huge.summary.value[0].tensor.tensor_shape.dim.add(size=10**15)
    path = append(tmp_path / "events.out.tfevents.1", *FIRST, huge)
    assert read_log(path).train.steps == (10, 20)


def test_numbers_that_do_not_fit_their_kind_are_passed_over(tmp_path: Path) -> None:
    odd = tensor(30, "train/loss", 1.0)
    proto = odd.summary.value[0].tensor
    proto.Clear()
    proto.dtype = 4  # an unsigned byte
    proto.int_val.append(10**6)
    assert read_log(append(tmp_path / "events.out.tfevents.1", *FIRST, odd)).train.steps == (10, 20)
