"""The plans in their order, and the files that replace them."""

import pytest

from vesuvius_kit.checks import InputError, InputValueError
from vesuvius_kit.inference.ladder import RIDGE, Rung, check_ladder, make_ladder, read_ladder

VIEWS = {"none": 1, "mirror4": 4, "mirror": 8, "seven": 7, "cubic": 48}


def count_views(number, tta):
    return VIEWS[tta]


def views_of(ladder):
    return [[VIEWS[tta] for _, tta in rung.members] for rung in ladder]


def test_views_go_first_then_networks_then_overlap_and_the_ridge_filter_is_last():
    ladder = make_ladder(2, "mirror", 0.5, count_views)
    assert views_of(ladder) == [[8, 8], [8, 4], [4, 4], [4, 1], [1, 1], [1], [1], [1], [1], [1], []]
    assert [rung.overlap for rung in ladder] == [0.5] * 6 + [0.375, 0.25, 0.125, 0.0, 0.0]
    assert ladder[-1] == RIDGE
    assert all(rung.members[0][0] == 0 for rung in ladder[:-1]), "the first network is kept longest"


def test_the_least_of_weights_gives_way_first_and_of_equal_ones_the_last():
    ladder = make_ladder(3, "mirror4", 0.0, count_views, weights=[1, 2, 1])
    assert [dict(rung.members) for rung in ladder] == [
        {0: "mirror4", 1: "mirror4", 2: "mirror4"},
        {0: "mirror4", 1: "mirror4", 2: "none"},
        {0: "none", 1: "mirror4", 2: "none"},
        {0: "none", 1: "none", 2: "none"},
        {0: "none", 1: "none"},
        {1: "none"},
        {},
    ]


@pytest.mark.parametrize(
    ("tta", "steps"), [("none", [1]), ("mirror4", [4, 1]), ("seven", [7, 4, 1]), ("cubic", [48, 8, 4, 1])]
)
def test_each_preset_steps_down_to_fewer_views(tta, steps):
    assert views_of(make_ladder(1, tta, 0.0, count_views)) == [*[[n] for n in steps], []]


def test_a_network_whose_own_views_are_few_is_left_alone():
    """``auto`` means what the record of each network says."""
    views = {(0, "auto"): 8, (1, "auto"): 1}
    ladder = make_ladder(2, "auto", 0.0, lambda number, tta: views.get((number, tta), VIEWS.get(tta)))
    assert [dict(rung.members) for rung in ladder] == [
        {0: "auto", 1: "auto"},
        {0: "mirror4", 1: "auto"},
        {0: "none", 1: "auto"},
        {0: "none"},
        {},
    ]


def test_a_network_that_fails_is_taken_out_of_a_plan():
    rung = Rung(((0, "mirror"), (1, "none")), 0.5)
    assert rung.without({0}) == Rung(((1, "none"),), 0.5)
    assert rung.without({0, 1}) == RIDGE
    assert rung.to_text() == "2 networks, tta mirror,none, overlap 0.5"
    assert RIDGE.to_text() == "ridge filter"


def test_a_file_replaces_the_plans(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "- {}\n- {tta: [mirror, none]}\n- {models: 1, overlap: 0.25}\n- {models: [2], tta: none, overlap: 0}\n- ridge\n"
    )
    assert read_ladder(path, 2, "mirror", 0.5, VIEWS) == [
        Rung(((0, "mirror"), (1, "mirror")), 0.5),
        Rung(((0, "mirror"), (1, "none")), 0.5),
        Rung(((0, "mirror"),), 0.25),
        Rung(((1, "none"),), 0.0),
        RIDGE,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a list of plans, largest first, got nothing"),
        ("models: 1", "must hold a list of plans"),
        ("- ridge", "at least one with a network"),
        ("- {models: 3}", r"plan 1: models must be >= 1 and <= 2, got 3"),
        ("- {models: [1, 1]}", r"plan 1: models must be named once, got \[1, 1\]"),
        ("- {models: []}", "plan 1: models must be at least one"),
        ("- {models: yes}", "models must be "),
        ("- {tta: other}", "plan 1: tta must be one of cubic, mirror"),
        ("- {tta: [none]}", "tta must be a name, or one for each of the 2 models"),
        ("- {overlap: 1}", "overlap must be >= 0 and < 1"),
        ("- {overlap: much}", "overlap must be a number"),
        ("- {views: 8}", "it must be ridge or hold models, tta and overlap, got a mapping with views"),
        ("- [1]", "it must be ridge or hold"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_ladder(path, 2, "mirror", 0.5, VIEWS)


def test_plans_given_in_python_are_checked_too():
    whole = Rung(((0, "mirror"),), 0.5)
    assert check_ladder([whole, whole, RIDGE], 1, VIEWS) == [whole, RIDGE]
    with pytest.raises(InputValueError, match="models must be >= 1 and <= 1, got 2"):
        check_ladder([Rung(((1, "none"),))], 1, VIEWS)
