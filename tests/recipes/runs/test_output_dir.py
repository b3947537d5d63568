"""Commands that begin at the same moment share their output folder."""

from concurrent.futures import ThreadPoolExecutor

from evolpo.recipes.runs.folder import writable_folder


def test_commands_that_begin_together_do_not_refuse_each_other(tmp_path):
    folder = tmp_path / "new" / "outputs"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: writable_folder(str(folder)), range(400)))
    assert found == [folder] * 400
    assert list(folder.iterdir()) == []
