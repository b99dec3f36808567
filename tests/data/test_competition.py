import dataclasses
import json
import pickle

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputError, InputNotFoundError, InputValueError
from vesuvius_kit.data.competition import Chunk, Competition
from vesuvius_kit.io.volume import write_volume

SHAPE = (4, 6, 8)


def make_label(shape=SHAPE):
    """A quarter surface, a quarter background, half unlabelled."""
    label = np.full(shape, 2, np.uint8)
    label[:, :, : shape[2] // 4] = 1
    label[:, :, shape[2] // 4 : shape[2] // 2] = 0
    return label


def write_rows(path, rows):
    path.write_text("id,scroll_id\n" + "".join(f"{id_},{scroll}\n" for id_, scroll in rows))


def write_pair(folder, id_, shape=SHAPE, prefix=""):
    for part, volume in (
        (f"{prefix}train_images", np.ones(shape, np.uint8)),
        (f"{prefix}train_labels", make_label(shape)),
    ):
        (folder / part).mkdir(exist_ok=True, parents=True)
        write_volume(folder / part / f"{id_}.tif", volume)


@pytest.fixture
def folder(tmp_path):
    """Five pairs of three scrolls, two rows without files (one deprecated), one test image."""
    for id_ in ("11", "12", "13", "21", "31"):
        write_pair(tmp_path, id_)
    write_pair(tmp_path, "90", prefix="deprecated_")
    rows = [("31", "c"), ("11", "a"), ("90", "a"), ("12", "a"), ("21", "b"), ("91", "b"), ("13", "a")]
    write_rows(tmp_path / "train.csv", rows)
    (tmp_path / "test_images").mkdir()
    write_volume(tmp_path / "test_images" / "t1.tif", np.ones(SHAPE, np.uint8))
    write_rows(tmp_path / "test.csv", [("t1", "a")])
    return tmp_path


def test_pairs_in_the_order_of_the_table(folder):
    competition = Competition(folder)
    assert [chunk.id for chunk in competition.train] == ["31", "11", "12", "21", "13"]
    first = competition.train[0]
    assert first == Chunk("31", "c", folder / "train_images" / "31.tif", folder / "train_labels" / "31.tif")
    assert competition.require_train() == competition.train
    assert competition.test == [Chunk("t1", "a", folder / "test_images" / "t1.tif", None)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.id = "32"
    assert pickle.loads(pickle.dumps(first)) == first


def test_scrolls_are_those_of_every_row_with_files_or_without(folder):
    scrolls = Competition(folder).scrolls
    assert scrolls == {"31": "c", "11": "a", "90": "a", "12": "a", "21": "b", "91": "b", "13": "a"}


def test_audit_of_a_good_folder(folder):
    audit = Competition(folder).audit()
    assert audit.ok
    assert audit.errors == []
    assert (audit.n_rows, audit.n_pairs, audit.n_test) == (7, 5, 1)
    assert audit.dropped == ["90", "91"]
    assert audit.deprecated == ["90"]
    assert audit.label_shares == pytest.approx((0.25, 0.25, 0.5))
    assert [(row.part, row.id, row.scroll_id) for row in audit.volumes][-2:] == [
        ("train", "13", "a"),
        ("test", "t1", "a"),
    ]
    assert {(row.shape, row.dtype) for row in audit.volumes} == {(SHAPE, "uint8")}
    assert audit.volumes[0].label_counts == (48, 48, 96)
    dropped, unlabelled = audit.warnings
    assert dropped == "2 rows of train.csv have no files and are dropped, 1 of them deprecated: 90, 91"
    assert unlabelled.startswith("50.0% of the label voxels are 2")
    assert "75.0% surface out of 25.0%" in unlabelled


def test_audit_as_text_and_as_json(folder):
    audit = Competition(folder).audit(images="pixels")
    text = audit.to_text()
    assert "train.csv: 7 rows, 5 pairs on disk, 2 rows dropped (1 deprecated)" in text
    assert any(line.split()[:5] == ["a", "3", "25.0%", "25.0%", "50.0%"] for line in text.splitlines())
    assert text.endswith("ok")
    data = json.loads(json.dumps(audit.to_dict()))
    assert data["ok"] is True
    assert data["volumes"][0]["label_shares"] == [0.25, 0.25, 0.5]
    assert data["volumes"][-1]["label_shares"] is None


def test_audit_reports_progress(folder):
    calls = []

    def progress(iterable, total, desc):
        calls.append((total, desc))
        return iterable

    Competition(folder).audit(progress=progress)
    assert calls == [(6, "audit")]


@pytest.mark.parametrize(("part", "other"), [("train_images", "label"), ("train_labels", "image")])
def test_half_a_pair_is_an_error_that_names_the_file(folder, part, other):
    lost = "train_labels" if other == "label" else "train_images"
    for id_ in ("12", "21"):
        (folder / lost / f"{id_}.tif").unlink()
    competition = Competition(folder)
    with pytest.raises(InputValueError, match=rf"half a pair: .*{part}/12\.tif has no {other} in .* \(and 1 more\)"):
        competition.train  # noqa: B018
    audit = competition.audit()
    assert not audit.ok
    assert len(audit.errors) == 2
    assert audit.n_pairs == 3
    assert audit.dropped == ["90", "91"]
    assert audit.to_text().endswith("2 error(s)")
    assert competition.test, "a damaged training part does not hinder prediction"


def test_files_without_a_row_are_reported_and_not_used(folder):
    write_pair(folder, "77")
    competition = Competition(folder)
    assert "77" not in [chunk.id for chunk in competition.train]
    audit = competition.audit()
    assert audit.ok
    assert "1 files of train_images have no row and are not used: 77" in audit.warnings
    assert "1 files of train_labels have no row and are not used: 77" in audit.warnings


def test_unfinished_files_are_not_seen(folder):
    (folder / "test_images" / ".t2.tif.0123.part").write_bytes(b"")
    (folder / "test_images" / "._t1.tif").write_bytes(b"")
    assert [chunk.id for chunk in Competition(folder).test] == ["t1"]


def test_the_hidden_rerun_may_swap_test_images(folder):
    (folder / "test_images" / "t1.tif").unlink()
    for id_ in ("t3", "t2"):
        write_volume(folder / "test_images" / f"{id_}.tif", np.ones(SHAPE, np.uint8))
    competition = Competition(folder)
    assert [(chunk.id, chunk.scroll_id) for chunk in competition.test] == [("t2", ""), ("t3", "")]
    audit = competition.audit()
    assert audit.ok
    assert "2 files of test_images have no row and are predicted all the same: t2, t3" in audit.warnings
    assert "1 rows of test.csv have no image: t1" in audit.warnings
    (folder / "test.csv").unlink()
    assert [chunk.id for chunk in Competition(folder).test] == ["t2", "t3"]


def test_without_test_images(folder):
    (folder / "test_images" / "t1.tif").unlink()
    competition = Competition(folder)
    assert competition.test == []
    assert competition.audit().ok
    with pytest.raises(InputValueError, match=r"no test images in .*test_images"):
        competition.require_test()


def test_a_folder_of_test_images_alone(tmp_path):
    (tmp_path / "test_images").mkdir()
    write_volume(tmp_path / "test_images" / "t1.tif", np.ones(SHAPE, np.uint8))
    competition = Competition(tmp_path)
    assert len(competition.require_test()) == 1
    with pytest.raises(InputNotFoundError, match=r"train\.csv must be an existing file"):
        competition.train  # noqa: B018


def test_no_pairs(tmp_path):
    write_rows(tmp_path / "train.csv", [("1", "a")])
    competition = Competition(tmp_path)
    assert competition.train == []
    assert competition.audit().errors == [f"no training pairs in {tmp_path}"]
    for need in (competition.require_train, lambda: competition.folds(2, 0)):
        with pytest.raises(InputValueError, match="no training pairs in"):
            need()


def test_missing_folder_and_wrong_folder(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"data folder must be an existing folder, got .*none"):
        Competition(tmp_path / "none")
    with pytest.raises(InputNotFoundError, match=r"must hold train\.csv or test_images, got neither"):
        Competition(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,scroll\n1,a\n", r"train\.csv must have a column scroll_id, got \['id', 'scroll'\]"),
        (b"1,a\n", r"train\.csv must have a column id"),
        (b"", r"train\.csv must have a column id, got no line"),
        (b"id,scroll_id\n1,a\n2,b\n1,b\n", r"train\.csv must not repeat an id, got 1 again in line 4"),
        (b"id,scroll_id\n1,a\n,b\n", r"train\.csv must have an id and a scroll_id in line 3"),
        (b"id,scroll_id\n1,a\n2\n", r"train\.csv must have 2 fields in line 3"),
        (b"id,scroll_id\n\xff\xfe,a\n", r"train\.csv is not a table in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(InputValueError, match=message) as caught:
        Competition(tmp_path).train  # noqa: B018
    assert "\n" not in str(caught.value)


def test_table_from_a_spreadsheet(folder):
    text = (folder / "train.csv").read_text()
    lines = [f"{index}, {line.replace(',', ' , ')}" for index, line in enumerate(text.splitlines())]
    lines[0] = "row,id,scroll_id"
    (folder / "train.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [chunk.id for chunk in Competition(folder).train] == ["31", "11", "12", "21", "13"]


def spoil(folder, part, volume, id_="12"):
    tifffile.imwrite(folder / part / f"{id_}.tif", volume, photometric="minisblack")
    audit = Competition(folder).audit()
    assert not audit.ok
    (error,) = audit.errors
    assert "\n" not in error
    return error


def test_label_value_seven(folder):
    label = make_label()
    label[0, 0, 0], label[1, 1, 1] = 7, 9
    error = spoil(folder, "train_labels", label)
    assert error.endswith("train_labels/12.tif must hold labels 0, 1 and 2, got 7, 9 as well")
    # A label of nothing but a strange value has no shares at all.
    assert "got 7 as well" in spoil(folder, "train_labels", np.full(SHAPE, 7, np.uint8))


def test_mismatching_shapes(folder):
    error = spoil(folder, "train_labels", make_label((4, 6, 12)))
    assert error.endswith("train_labels/12.tif must have its image's shape 4x6x8, got 4x6x12")


def test_two_dimensional_and_float_files(folder):
    assert "train_labels/12.tif must be a volume (z, y, x), got a 2-D TIFF" in spoil(
        folder, "train_labels", make_label()[0]
    )
    assert "train_labels/12.tif must hold uint8 pixels, got float32" in spoil(
        folder, "train_labels", make_label().astype(np.float32)
    )
    write_volume(folder / "train_labels" / "12.tif", make_label())
    assert "train_images/12.tif must hold uint8 pixels, got float32" in spoil(
        folder, "train_images", np.ones(SHAPE, np.float32)
    )
    assert "train_images/12.tif must be a volume (z, y, x), got a 2-D TIFF" in spoil(
        folder, "train_images", np.ones(SHAPE[1:], np.uint8)
    )


@pytest.mark.parametrize("part", ["train_images", "train_labels", "test_images"])
def test_a_truncated_file_is_a_line_of_the_audit(folder, part):
    path = folder / part / ("t1.tif" if part == "test_images" else "21.tif")
    path.write_bytes(path.read_bytes()[:300])
    audit = Competition(folder).audit()
    (error,) = audit.errors
    assert f"{part}/{path.name} is not a whole TIFF" in error
    assert len(audit.volumes) == (6 if part == "train_labels" else 5)


def test_damaged_pixels_need_the_thorough_audit(folder):
    path = folder / "train_images" / "21.tif"
    write_volume(path, np.random.default_rng(0).integers(0, 255, (3, 100, 100)).astype(np.uint8))
    write_volume(folder / "train_labels" / "21.tif", make_label((3, 100, 100)))
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 5000] = b"\xff" * 5000
    path.write_bytes(data)
    assert Competition(folder).audit(images="headers").ok
    (error,) = Competition(folder).audit(images="pixels").errors
    assert "train_images/21.tif cannot be decoded" in error
    with pytest.raises(InputValueError, match="images must be one of headers, pixels, got 'all'"):
        Competition(folder).audit(images="all")


def test_differing_shapes_and_labels_without_surface_are_warned_of(folder):
    write_pair(folder, "13", (5, 6, 8))
    write_volume(folder / "train_labels" / "31.tif", np.full(SHAPE, 2, np.uint8))
    audit = Competition(folder).audit()
    assert audit.ok
    assert "images differ in shape: 4x6x8 (5), 5x6x8 (1); not the most common: 13" in audit.warnings
    assert "1 labels have no surface voxel: 31" in audit.warnings


def write_table_and_stubs(folder, sizes):
    """Empty files are enough for splitting: `folds` opens none of them."""
    rows = [(f"{scroll}{index}", scroll) for scroll, size in sizes.items() for index in range(size)]
    write_rows(folder / "train.csv", rows)
    for part in ("train_images", "train_labels"):
        (folder / part).mkdir()
        for id_, _ in rows:
            (folder / part / f"{id_}.tif").touch()
    return rows


def test_the_quick_audit_of_pairs(folder):
    Competition(folder).audit_pairs()
    spoiled = [
        ("train_images", np.ones(SHAPE, np.float32), r"train_images/12\.tif must hold uint8 pixels, got float32"),
        ("train_images", np.ones((5, 6, 8), np.uint8), r"train_labels/12\.tif must have its image's shape 5x6x8"),
        ("train_labels", make_label()[0], r"train_labels/12\.tif must be a volume"),
    ]
    for part, volume, message in spoiled:
        tifffile.imwrite(folder / part / "12.tif", volume, photometric="minisblack")
        with pytest.raises(InputValueError, match=message):
            Competition(folder).audit_pairs()
        write_pair(folder, "12")
    path = folder / "train_labels" / "12.tif"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputValueError, match=r"train_labels/12\.tif is not a whole TIFF"):
        Competition(folder).audit_pairs()
    (folder / "train.csv").write_text("id,scroll_id\n")
    with pytest.raises(InputValueError, match="no training pairs"):
        Competition(folder).audit_pairs()


def test_folds_of_the_competition_are_balanced(tmp_path):
    sizes = {"s34117": 382, "s35360": 176, "s26010": 130, "s26002": 88, "s44430": 17, "s53997": 13}
    write_table_and_stubs(tmp_path, sizes)
    competition = Competition(tmp_path)
    assert [len(validation) for _, validation in competition.folds(2, 0)] == [399, 407]
    assert [len(validation) for _, validation in competition.folds(5, 0)] == [382, 176, 130, 88, 30]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=7), data=st.data(), seed=st.integers(0, 99))
def test_folds_never_share_a_scroll(tmp_path_factory, sizes, data, seed):
    folder = tmp_path_factory.mktemp("folds")
    rows = write_table_and_stubs(folder, {chr(97 + index): size for index, size in enumerate(sizes)})
    n_folds = data.draw(st.integers(2, len(sizes)))
    folds = Competition(folder).folds(n_folds, seed)
    assert folds == Competition(folder).folds(n_folds, seed)
    validated = []
    for train, validation in folds:
        assert validation
        assert not {chunk.scroll_id for chunk in train} & {chunk.scroll_id for chunk in validation}
        assert sorted(chunk.id for chunk in train + validation) == sorted(id_ for id_, _ in rows)
        validated += [chunk.id for chunk in validation]
    assert sorted(validated) == sorted(id_ for id_, _ in rows)
    loads = [len(validation) for _, validation in folds]
    assert max(loads) - min(loads) <= max(sizes), "the bound of dealing to the least loaded fold"


def test_seed_breaks_ties(tmp_path):
    write_table_and_stubs(tmp_path, dict.fromkeys("abcdef", 2))
    competition = Competition(tmp_path)
    splits = {tuple(chunk.id for chunk in competition.folds(3, seed)[0][1]) for seed in range(8)}
    assert len(splits) > 1


def test_too_many_and_too_few_folds(folder):
    competition = Competition(folder)
    with pytest.raises(InputValueError, match=r"n_folds must be at most 3, the number of scrolls in .*, got 4"):
        competition.folds(4, 0)
    with pytest.raises(InputValueError, match="n_folds must be >= 2, got 1"):
        competition.folds(1, 0)


def rename_pairs(folder, names):
    """Name the files of pairs otherwise; the table keeps its ids."""
    for old, new in names.items():
        for part in ("train_images", "train_labels"):
            (folder / part / f"{old}.tif").rename(folder / part / f"{new}.tif")


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ("12", "0012"),
        ("1.01209E+09", "1012093321"),
        ("1.012093e+9", "1012093321"),
        ("1,01E+09", "1012093321"),
        ("12.0", "12"),
        ("12345678901234500", "12345678901234567"),
        ("12345678901234568", "12345678901234567"),
    ],
)
def test_ids_that_a_spreadsheet_spoilt_are_an_error(folder, row, file):
    """A14: training went on with fewer pairs and said nothing."""
    rename_pairs(folder, {"12": file})
    lines = (folder / "train.csv").read_text().splitlines()
    lines = [f'"{row}",a' if line.startswith("12,") else line for line in lines]
    (folder / "train.csv").write_text("\n".join(lines))
    competition = Competition(folder)
    with pytest.raises(InputValueError, match="got ids as a spreadsheet spoils them") as caught:
        competition.train  # noqa: B018
    assert f"{row} for {folder / 'train_images' / file}.tif" in str(caught.value)
    audit = competition.audit()
    assert audit.errors == [str(caught.value)]


@pytest.mark.parametrize(("spelt", "other"), [("70101", "70101.0"), ("7", "007"), ("PHerc1", "pherc1")])
def test_a_scroll_in_two_spellings_is_an_error(tmp_path, spelt, other):
    """It counted as two scrolls, and its chunks lay on both sides of a fold."""
    (tmp_path / "train.csv").write_text(f"id,scroll_id\n1,{spelt}\n2,{other}\n3,x\n")
    (tmp_path / "train_images").mkdir()
    with pytest.raises(InputValueError, match=f"one way, got {other} in line 3 and {spelt} before"):
        Competition(tmp_path).train  # noqa: B018


@pytest.mark.parametrize(
    ("row", "file"),
    [("12", "13x"), ("12", "120"), ("1.01209E+09", "1012193321"), ("ab", "0ab"), ("12", "12")],
)
def test_other_rows_without_files_are_dropped_as_before(folder, row, file):
    """A14: a row without a file and a file without a row need not belong together."""
    rename_pairs(folder, {"12": file})
    with open(folder / "train.csv", "a", newline="") as stream:
        stream.write(f"\n{row},a\n" if row != "12" else "\n")
    assert len(Competition(folder).train) == (5 if row == file else 4)


def test_training_pairs_and_drops_are_logged(folder, caplog):
    """A14: `train` says how many pairs it takes."""
    with caplog.at_level("INFO"):
        Competition(folder).train  # noqa: B018
    assert f"{folder}: 5 pairs of 7 rows in train.csv" in caplog.text
    assert "2 rows without files are dropped, 1 of them deprecated: 90, 91" in caplog.text


PLAIN = [("31", "c"), ("11", "a"), ("12", "a"), ("21", "b"), ("13", "a")]


@pytest.mark.parametrize(
    "content",
    [
        "\r\n".join(["id;scroll_id", *(f"{id_};{scroll}" for id_, scroll in PLAIN)]).encode(),
        "\n".join(["id\tscroll_id", *(f"{id_}\t{scroll}" for id_, scroll in PLAIN)]).encode(),
        "\r".join(["id,scroll_id", *(f"{id_},{scroll}" for id_, scroll in PLAIN)]).encode(),
        "\n".join(['"id", "scroll_id"', *(f'"{id_}", "{scroll}"' for id_, scroll in PLAIN)]).encode(),
        "\n\n".join(["", "id,scroll_id", *(f"{id_},{scroll}" for id_, scroll in PLAIN), ",", " , "]).encode(),
        "\n".join(["id,scroll_id,", *(f"{id_},{scroll},," for id_, scroll in PLAIN)]).encode(),
        "\n".join(["id,scroll_id", *(f"{id_},{scroll}" for id_, scroll in PLAIN + PLAIN[:2])]).encode("utf-16"),
        "\n".join(["id,scroll_id", *(f"{id_},{scroll}" for id_, scroll in PLAIN)]).encode("utf-8-sig"),
    ],
    ids=[
        "semicolons",
        "tabs",
        "old mac",
        "quotes",
        "blank lines",
        "empty column",
        "utf-16, rows twice",
        "byte order mark",
    ],
)
def test_tables_of_other_programs_are_read(folder, content):
    (folder / "train.csv").write_bytes(content)
    competition = Competition(folder)
    assert [(chunk.id, chunk.scroll_id) for chunk in competition.train] == PLAIN


def test_rows_that_are_there_twice_are_told(folder):
    with open(folder / "train.csv", "a") as stream:
        stream.write("11,a\n11,a\n")
    audit = Competition(folder).audit()
    assert audit.ok
    assert (audit.n_rows, audit.n_pairs) == (7, 5)
    assert "1 ids of train.csv are there more than once and count once: 11" in audit.warnings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,scroll_id\n1\0,a\n", "holds NUL characters"),
        ("id,scroll_id\n1,a\n".encode("utf-16-le"), "holds NUL characters"),
        ("id,scroll_id\n1,a\n".encode("utf-16")[:-1], "is not a table in UTF-8 or UTF-16"),
        (b"\xff\xfeid,scroll_id\n1,a", "is not a table in UTF-8 or UTF-16|must have a column id"),
        (b"id,id,scroll_id\n1,2,a\n", "must have one column id, got"),
        (b'id,scroll_id\n"1,a\n2,b\n3,c\n', "is not a table: unexpected end of data"),
        (b"id,scroll_id\n1,2,a\n", "must have 2 fields in line 2, got more"),
        (b"PK\3\4\x14\0\0\0", "holds NUL|must have a column|UTF-8"),
    ],
)
def test_tables_that_nobody_can_read_are_one_line(folder, content, message):
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(InputValueError, match=message) as caught:
        Competition(folder).train  # noqa: B018
    assert "\n" not in str(caught.value)
    assert "train.csv" in str(caught.value)


def test_mutated_tables_are_read_or_one_line(folder):
    whole = (folder / "train.csv").read_bytes()
    random, messages = np.random.default_rng(0), []
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.choice([random.integers(256), 0, 34, 10, 44])
        (folder / "train.csv").write_bytes(data)
        try:
            Competition(folder).train  # noqa: B018
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 40
    assert not any("\n" in message for message in messages)
