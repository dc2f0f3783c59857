"""The rows of the campaign of mutations fit the files that they break.

Not among the goldens: those run in copies with a mutation, where its text is gone.
"""

import pytest
from golden import campaign


@pytest.mark.parametrize("mutation", campaign.mutations(), ids=lambda row: row.file)
def test_a_mutation_finds_its_text_once(mutation):
    assert mutation.fault(campaign.ROOT) is None
