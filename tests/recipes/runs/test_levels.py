from evolpo.recipes.runs.levels import in_order


def test_levels_come_as_the_data_names_them_then_by_name():
    config = {"data": {"train": [{"difficulty": "easy"}, {"difficulty": "medium"}, {"difficulty": ""}]}}
    config["data"]["heldout"] = [{"difficulty": "hard"}, {"difficulty": "easy"}]
    assert in_order({"zz", "hard", "aa", "easy", "", "medium"}, config) == ["easy", "medium", "hard", "aa", "zz"]


def test_without_a_configuration_they_come_by_name():
    assert in_order(["b", "a", "b"], {}) == ["a", "b"]
    assert in_order(["b", "a"], {"data": None}) == ["a", "b"]
