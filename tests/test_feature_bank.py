"""Stored splits: what is read is what was written, and damage is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin import files
from nci_plugin.checks import PluginError
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.features.store import SplitStore
from nci_plugin.files import digest, write_atomically

FIELDS = ("features", "logits", "labels")
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def make_chunk(rows, seed=0, width=6, num_classes=3):
    generator = torch.Generator().manual_seed(seed)
    return Chunk(
        torch.randn(rows, width, generator=generator),
        torch.randn(rows, num_classes, generator=generator),
        torch.randint(-1, num_classes, (rows,), generator=generator),
    )


def assert_same(got, expected):
    for field in FIELDS:
        one, other = getattr(got, field), getattr(expected, field)
        assert one.dtype == other.dtype
        assert torch.equal(one, other), field


CHUNKS = [make_chunk(rows, seed) for seed, rows in enumerate((5, 3, 4, 1))]


@pytest.fixture
def store(tmp_path):
    """A finished split of four shards."""
    store = SplitStore(tmp_path / "id.test-0123")
    for number, chunk in enumerate(CHUNKS):
        store.add_shard(number, chunk)
    store.finish(sum(map(len, CHUNKS)), {"split": "id/test"})
    return store


def test_a_split_that_an_earlier_version_stored_is_read(tmp_path):
    """Of 0.1.0; in a copy, since what is damaged would be removed."""
    shutil.copytree(Path(__file__).parent / "earlier_features", tmp_path / "features")
    store = SplitStore(tmp_path / "features" / "network-0123" / "id.train-4567")
    features, labels = torch.arange(20.0).reshape(5, 4) / 4, torch.tensor([0, 1, 2, 1, 0])
    split = store.load()
    assert len(split.shards) == 2
    assert_same(split, Chunk(features, features[:, :3] - features[:, 3:] * torch.tensor([1, 0.5, 0.25]), labels))
    found, expected = store.load_statistics(), ClassStatistics(3, 4).update(features, labels)
    for name, value in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, rtol=1e-12), name


def shard_files(store):
    return sorted(store.directory.glob("[0-9]*.safetensors"))


def assert_there(store, numbers):
    """The shards of these numbers are there, whole, and nothing else that looks like a shard."""
    found = store.shards()
    assert list(found) == list(numbers)
    for number, got in found.items():
        assert_same(got, CHUNKS[number])
    assert len(shard_files(store)) == len(found)


# -------------------------------------------------------------------- round trip


def test_round_trip(store):
    again = SplitStore(store.directory)
    assert again.is_finished
    split = again.load()
    assert len(split) == 13
    for got, expected in zip(split.shards, CHUNKS):
        assert_same(got, expected)
    assert_same(split, FeatureSplit(CHUNKS))


def test_values_are_kept_to_the_bit(tmp_path):
    features = torch.tensor([[0.0, -0.0, 1e-45, 3.4e38], [1.0000001, -1e-38, 1 / 3, 2.0**-126]])
    store = SplitStore(tmp_path)
    store.add_shard(0, Chunk(features, features[:, :2], torch.tensor([2**62, -1])))
    (chunk,) = store.shards().values()
    assert torch.equal(chunk.features.view(torch.int32), features.view(torch.int32))
    assert chunk.labels.tolist() == [2**62, -1]


def test_columns_and_views_are_stored_as_they_read(tmp_path):
    whole = make_chunk(8)
    store = SplitStore(tmp_path)
    store.add_shard(0, Chunk(whole.features.T.contiguous().T, whole.logits[:, :2], whole.labels))
    assert_same(store.shards()[0], Chunk(whole.features, whole.logits[:, :2], whole.labels))
    store.add_shard(1, whole.rows(2, 5))
    assert_same(store.shards()[1], whole.rows(2, 5))


def test_more_than_nine_shards_come_in_order(tmp_path):
    store = SplitStore(tmp_path)
    for number in (10, 3, 0, 1, 2, 11, 9, 4, 5, 6, 7, 8):
        store.add_shard(number, make_chunk(1, seed=number))
    assert list(store.shards()) == list(range(12))
    for number, chunk in store.shards().items():
        assert_same(chunk, make_chunk(1, seed=number))


def test_an_empty_place_holds_nothing(tmp_path):
    store = SplitStore(tmp_path / "not there")
    assert not store.is_finished
    assert store.shards() == {}
    assert store.listed() == {}
    assert store.load_part("0of1") is None
    assert store.load() is None
    assert store.load_statistics() is None
    assert not store.directory.exists()


def test_a_split_is_finished_only_by_its_last_file(tmp_path):
    store = SplitStore(tmp_path)
    store.add_shard(0, CHUNKS[0])
    assert not store.is_finished
    assert store.load() is None
    assert len(store.shards()) == 1, "an interrupted pass goes on behind its last shard"
    store.finish(5, {})
    assert len(store.load()) == 5


def test_split_json_is_written_after_every_shard(tmp_path, monkeypatch):
    written = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (written.append(os.path.basename(paths[1])), replace(*paths)))
    store = SplitStore(tmp_path)
    for number, chunk in enumerate(CHUNKS):
        store.add_shard(number, chunk)
    store.finish(13, {"split": "id/test", "benchmark": "digits"})
    assert [name[:5] for name in written] == ["00000", "00001", "00002", "00003", "split"]
    assert json.loads((tmp_path / "split.json").read_text()) == {"rows": 13, "split": "id/test", "benchmark": "digits"}


# -------------------------------------------------------------------- damage


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def flip_last(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_header(path):
    data = bytearray(path.read_bytes())
    data[20] ^= 128
    path.write_bytes(data)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path):
    path.unlink()


def renumber(path):
    path.rename(path.with_name("00009" + path.name[5:]))


def rename_hash(path):
    path.rename(path.with_name(f"{path.name[:6]}{'0' * 32}.safetensors"))


DAMAGE = [cut_short, empty, flip_last, flip_header, lengthen, remove, renumber, rename_hash]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("number", range(4))
def test_damage_costs_the_damaged_shard(store, damage, number):
    damage(shard_files(store)[number])
    assert_there(store, [each for each in range(4) if each != number])


def test_a_process_looks_at_its_own_shards_alone(store):
    for path in shard_files(store)[:2]:
        flip_last(path)
    assert list(store.shards([1, 3])) == [3]
    assert len(shard_files(store)) == 3, "the damaged shard of another process is its business"


def test_files_of_another_split_or_network_are_as_good_as_damaged(store, tmp_path):
    for place in (tmp_path / "id.test-other", tmp_path / "network" / "id.test-0123"):
        other = SplitStore(place)
        other.add_shard(0, CHUNKS[0])
        other.save_statistics(statistics())
        other.save_part("0of1", 2, statistics())
        for path in other.directory.iterdir():
            (store.directory / path.name).write_bytes(path.read_bytes())
    assert_there(store, range(4))
    assert store.load_statistics() is None
    assert store.load_part("0of1") is None


def test_a_directory_in_the_place_of_a_shard_is_left_alone(store):
    path = shard_files(store)[1]
    path.unlink()
    path.mkdir()
    assert list(store.shards()) == [0, 2, 3]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_finished_split_with_damage_is_not_finished_any_more(store, damage):
    damage(shard_files(store)[3])
    assert store.load() is None
    assert not store.is_finished
    store.add_shard(3, CHUNKS[3])
    store.finish(13, {})
    assert_same(store.load(), FeatureSplit(CHUNKS))


@pytest.mark.parametrize("text", ["", "{", '{"rows": 1', "[]", '{"split": "id/test"}', '{"rows": null}', "\0\0\0"])
def test_a_damaged_split_json_is_a_split_that_is_not_finished(store, text):
    (store.directory / "split.json").write_text(text)
    assert store.load() is None
    assert not store.is_finished
    assert_there(store, range(4))


def test_files_that_are_not_ours_are_left_and_ignored(store):
    foreign = {
        "notes.txt": b"mine",
        "00000.safetensors": b"no hash",
        f"0-{'a' * 32}.safetensors": b"one digit",
        f"00004-{'a' * 32}.safetensors.bak": b"a backup",
        f".00004-{'a' * 32}.safetensors.123.tmp": b"left by a killed run",
        f"x00004-{'a' * 32}.safetensors": b"another prefix",
    }
    for name, data in foreign.items():
        (store.directory / name).write_bytes(data)
    (store.directory / "directory").mkdir()
    assert_same(store.load(), FeatureSplit(CHUNKS))
    for name, data in foreign.items():
        assert (store.directory / name).read_bytes() == data


def test_a_second_shard_of_the_same_number_is_not_read_twice(store):
    store.add_shard(1, make_chunk(3, seed=99))
    assert [len(chunk) for chunk in store.shards().values()] == [5, 3, 4, 1]


# -------------------------------------------------------------------- statistics


def statistics(seed=0):
    chunk = make_chunk(40, seed)
    return ClassStatistics(3, 6).update(chunk.features, chunk.labels.clamp(min=0))


def test_statistics_round_trip(tmp_path):
    store, saved = SplitStore(tmp_path), statistics()
    store.save_statistics(saved)
    loaded = SplitStore(tmp_path).load_statistics()
    assert (loaded.num_classes, loaded.num_features) == (3, 6)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == torch.float64
    assert loaded.update(torch.ones(1, 6), torch.tensor([0])).num_samples == 41


def test_statistics_saved_again_replace_the_old_ones(tmp_path):
    store = SplitStore(tmp_path)
    for seed in (0, 1):
        store.save_statistics(statistics(seed))
    assert len(list(tmp_path.glob("statistics-*"))) == 1
    assert torch.equal(store.load_statistics().means, statistics(1).means)


@pytest.mark.parametrize("damage", [cut_short, empty, flip_last, flip_header, lengthen, remove])
def test_damaged_statistics_are_none(tmp_path, damage):
    store = SplitStore(tmp_path)
    store.save_statistics(statistics())
    (path,) = tmp_path.glob("statistics-*")
    damage(path)
    assert store.load_statistics() is None


def test_a_part_goes_on_from_its_last_whole_file(tmp_path):
    store = SplitStore(tmp_path)
    store.save_part("1of2", 3, statistics(0))
    (before,) = tmp_path.iterdir()
    old = before.read_bytes()
    store.save_part("1of2", 12, statistics(1))
    store.save_part("0of2", 30, statistics(2))
    assert len(list(tmp_path.iterdir())) == 2
    done, part = store.load_part("1of2")
    assert done == 12
    assert torch.equal(part.means, statistics(1).means)
    before.write_bytes(old)
    cut_short(next(tmp_path.glob("part-1of2-00012-*")))
    done, part = store.load_part("1of2")
    assert done == 3
    assert torch.equal(part.means, statistics(0).means)
    assert store.load_part("1of3") is None
    store.save_statistics(statistics(3))
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["statistics-"]


def test_statistics_that_cannot_be_replaced_stay(tmp_path, monkeypatch):
    store = SplitStore(tmp_path)
    store.save_statistics(statistics(0))
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(PluginError):
        store.save_statistics(statistics(1))
    assert torch.equal(store.load_statistics().means, statistics(0).means)


def test_shards_and_statistics_lie_side_by_side(store):
    store.save_statistics(statistics())
    assert_same(store.load(), FeatureSplit(CHUNKS))
    assert store.load_statistics().num_samples == 40


# -------------------------------------------------------------------- FeatureSplit


@PROPERTY
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), rows=st.integers(1, 12))
def test_chunks_cover_all_rows_in_order(sizes, rows):
    split = FeatureSplit([make_chunk(size, seed) for seed, size in enumerate(sizes)])
    chunks = list(split.chunks(rows))
    assert all(0 < len(chunk) <= rows for chunk in chunks)
    for field in FIELDS:
        assert torch.equal(torch.cat([getattr(chunk, field) for chunk in chunks]), getattr(split, field))
    assert len(split) == sum(sizes)
    assert torch.equal(split.predictions, split.logits.argmax(1))


def test_a_split_in_memory_is_not_copied_by_its_chunks():
    chunk = make_chunk(10)
    (got,) = FeatureSplit.of(chunk.features, chunk.logits, chunk.labels).chunks()
    assert got.features.data_ptr() == chunk.features.data_ptr()


# -------------------------------------------------------------------- files


BOUNDARIES = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), (b"a", b"b", b"c"), (), (b"",)]


def test_digest_is_unambiguous_about_boundaries():
    assert len({digest(*parts) for parts in BOUNDARIES}) == len(BOUNDARIES)


@PROPERTY
@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_digests_are_equal_only_for_equal_parts(one, other):
    assert (digest(*one) == digest(*other)) == (one == other)


def test_digest_takes_text_as_utf_8_and_has_32_digits():
    assert digest("Größe") == digest("Größe".encode())
    assert len(digest("x")) == 32
    assert int(digest("x"), 16) >= 0


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("old", [b"old", None])
def test_failed_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(files.os, call, no_space)
    with pytest.raises(PluginError, match=r"cannot write '.*file': No space left on device; free space or"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_disk_that_fills_while_writing(tmp_path, monkeypatch):
    """/dev/full is a disk without space: a write that reaches it fails with ENOSPC."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    monkeypatch.setattr(files.uuid, "uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / f".file.{uuid.UUID(int=0).hex}.tmp").symlink_to("/dev/full")
    with pytest.raises(PluginError, match="No space left on device"):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_flushed_to_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a)))
    write_atomically(tmp_path / "file", b"new")
    assert calls == ["fsync", "replace"]


def test_writing_makes_directories_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, "± 1\n")
    assert path.read_bytes() == "± 1\n".encode()
    write_atomically(path, b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_where_a_directory_must_be_is_one_line(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(PluginError, match="cannot write '.*a/file'"):
        write_atomically(tmp_path / "a" / "file", b"new")


def test_a_shard_that_cannot_be_written_is_not_there(tmp_path, monkeypatch):
    store = SplitStore(tmp_path)
    store.add_shard(0, CHUNKS[0])
    monkeypatch.setattr(files.os, "replace", no_space)
    with pytest.raises(PluginError, match="No space left"):
        store.add_shard(1, CHUNKS[1])
    assert_there(store, [0])
    assert len(list(tmp_path.iterdir())) == 1
