"""A recipe with any value that hypothesis draws is applied whole, or refused."""

import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mae import config
from mae.config import recipe

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = plain | st.lists(plain, max_size=3)


def keys(project):
    return [key for key, _ in recipe.leaves(config.read_yaml(project / "params.yaml"))]


@settings(max_examples=50)
@given(data=st.data(), value=values)
def test_any_value_of_any_key_is_applied_or_refused_by_its_key(project, tmp_path_factory, data, value):
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    shutil.copy(project / "params.yaml", file)
    before = file.read_text()
    key = data.draw(st.sampled_from(keys(project)))
    given = tmp_path_factory.getbasetemp() / "recipe.yaml"
    for name in reversed(key.split(".")):
        value = {name: value}
    with given.open("w") as out:
        YAML().dump(value, out)
    try:
        recipe.apply(str(given), [], file)
    except config.InvalidParams:
        assert file.read_text() == before
        return
    config.load(file)
    after = file.read_text()
    assert recipe.apply(str(given), [], file) == [], "a second time changes nothing"
    assert file.read_text() == after
