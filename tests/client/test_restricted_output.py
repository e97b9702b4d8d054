"""Restricted output: nothing that a container sends is unpickled by its caller."""

import pytest
from modal_proto import api_pb2

pytestmark = pytest.mark.usefixtures("warm")

SUCCESS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
UNNAMED, PICKLE, CBOR = (
    api_pb2.DATA_FORMAT_UNSPECIFIED,
    api_pb2.DATA_FORMAT_PICKLE,
    api_pb2.DATA_FORMAT_CBOR,
)


@pytest.fixture(scope="module")
def app(modal, warm):
    import output_app

    with output_app.app.run():
        yield output_app


def test_plain_values_and_the_text_of_exceptions_arrive(app, modal):
    assert app.honest.remote(3) == {"x": 3, "list": [1, 2.5, None, b"bytes"]}
    with pytest.raises(modal.exception.RemoteError, match="-1 is negative"):
        app.honest.remote(-1)


@pytest.mark.parametrize("status", [SUCCESS, FAILURE])
@pytest.mark.parametrize("data_format", [UNNAMED, PICKLE, CBOR])
def test_a_pickle_is_not_read_whatever_it_is_called(app, modal, tmp_path, status, data_format):
    trap = tmp_path / "sprung"
    try:
        app.result.remote(str(trap), status, data_format)
    except modal.exception.RemoteError:
        # Where CBOR was named, the bytes may be read as CBOR: whatever they say, they run nothing.
        pass
    except Exception as error:
        assert (status, data_format) == (SUCCESS, CBOR), error
    assert not trap.exists()


def test_a_pickled_failure_is_read_without_restricted_output(app, modal, tmp_path):
    """What the setting is for: the trap springs in this process."""
    trap = tmp_path / "sprung"
    with pytest.raises(modal.exception.ExecutionError):
        app.open_result.remote(str(trap), FAILURE, UNNAMED)
    assert trap.is_dir()


@pytest.mark.parametrize("data_format", [UNNAMED, PICKLE])
def test_a_pickle_is_not_yielded(app, tmp_path, data_format):
    trap = tmp_path / "sprung"
    with pytest.raises(Exception, match="restricted output"):
        list(app.stream.remote_gen(str(trap), data_format))
    assert not trap.exists()
