"""What tests of readers have in common."""

import pytest

from medi2i.common.errors import Unreadable
from medi2i.datasets.file_names import kind_of
from medi2i.datasets.reading import read_header, read_image


@pytest.fixture
def refusal():
    """Why a picture or table is not read, as a function of its path; its header alone must say the same in one line."""

    def why(path):
        with pytest.raises(Unreadable) as error:
            read_image(path)
        with pytest.raises(Unreadable) as header:
            read_header(path, kind_of(path))
        assert str(header.value) == str(error.value) and "\n" not in str(error.value)
        return error.value.reason

    return why
