import pytest

from dv.data.record import read_record, write_record
from dv.errors import UserError


def test_a_written_record_is_read_back(tmp_path):
    write_record(tmp_path, {"source": "test", "settings": {"every": 2}})
    assert read_record(tmp_path) == {"source": "test", "settings": {"every": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_a_missing_record_is_empty(tmp_path):
    assert read_record(tmp_path) == read_record(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_damaged_record_is_refused_or_ignored(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match="dataset.json: not a JSON object; fix or delete it"):
        read_record(tmp_path)
    assert read_record(tmp_path, strict=False) == {}
