"""A world for tests of networks."""

import pytest

from world import World


@pytest.fixture(scope="module")
def world():
    """Two network namespaces, as long as a file of tests runs."""
    made = World()
    try:
        made.make()
        yield made
    finally:
        made.remove()
