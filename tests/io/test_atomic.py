import os

import pytest

from vesuvius_kit.io.atomic import write_atomically


def test_atomic_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with write_atomically(path) as stream:
            stream.write("half of the n")
            assert path.read_text() == "old"
            assert list(tmp_path.glob("*.csv")) == [path]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(tmp_path) == ["table.csv"]
    assert path.read_text() == "old"


def test_atomic_writing_replaces_text_and_bytes_exactly(tmp_path):
    path = tmp_path / "table.csv"
    for mode, content in (("w", "Ä\r\nb\n"), ("wb", b"\0\r\n")):
        with write_atomically(path, mode) as stream:
            stream.write(content)
        assert path.read_bytes() == (content.encode() if mode == "w" else content)
    assert os.listdir(tmp_path) == ["table.csv"]
