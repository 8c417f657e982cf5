"""Derived series in an archive: sent as a whole folder, accepted, one study, pixels equal. Needs its programs."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pydicom
import pytest

from medi2i.pix2pix import convert

PATIENCE = 30.0  # seconds for a server to answer


def program(*names):
    """The path of the first program there is; skips the test without one."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"{names[0]} is not installed")
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def serving(words, *ports):
    """A server on the loopback interface, once it listens on all ``ports``."""
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not all(listens(port) for port in ports):
            assert server.poll() is None and time.monotonic() < end, f"{words[0]} does not serve"
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def results(tmp_path, ct):
    """The folder of a series of three slices, of which two models made two more, as they come out of convert.py."""
    for number in (1, 2, 3):
        image = ct(
            np.arange(35 * 41, dtype=np.uint16).reshape(35, 41) + number,
            InstanceNumber=number,
            PatientName="Test",
            ImagePositionPatient=[0, 0, 2 * number],
        )
        (tmp_path / "in").mkdir(exist_ok=True)
        image.save_as(tmp_path / f"in/{number}.dcm", enforce_file_format=True)
    for name, more in (("one", []), ("two", ["-ca", "-1000", "300"])):
        words = ["-m", "identity", "-R", str(tmp_path / "in"), "-o", str(tmp_path / "out" / name)]
        assert convert.main([*words, *more]) == 0
        shutil.rmtree(tmp_path / "out" / f"{name}.report")  # beside each, not in it
    return tmp_path / "out"


def sent(folder, port):
    subprocess.run(
        [program("storescu"), "+sd", "+r", "-aec", "ANY", "127.0.0.1", str(port), str(folder)],
        check=True,
        capture_output=True,
    )


def same(found, folder):
    """Whether the data sets ``found`` are those of ``folder``, with the same pixels."""
    expected = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, folder.rglob("*.dcm"))}
    found = {d.SOPInstanceUID: d for d in found}
    assert found.keys() == expected.keys() and len({d.StudyInstanceUID for d in found.values()}) == 1
    for uid, d in found.items():
        np.testing.assert_array_equal(d.pixel_array, expected[uid].pixel_array)
    series = {(d.SeriesInstanceUID, d.SeriesNumber) for d in found.values()}
    assert len(series) == len({number for _, number in series}) == 2


def test_storescp_takes_a_folder_of_results(tmp_path, results):
    port, received = free_port(), tmp_path / "archive"
    received.mkdir()
    with serving([program("storescp"), "-od", str(received), str(port)], port):
        sent(results, port)
    same([pydicom.dcmread(path) for path in received.iterdir()], results)


def test_orthanc_takes_a_folder_of_results(tmp_path, results):
    dicom, web, settings = free_port(), free_port(), tmp_path / "orthanc.json"
    settings.write_text(
        json.dumps(
            {
                "StorageDirectory": str(tmp_path / "archive"),
                "IndexDirectory": str(tmp_path / "archive"),
                "DicomPort": dicom,
                "HttpPort": web,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAlwaysAllowStore": True,
                "Plugins": [],
            }
        )
    )

    def asked(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{web}{path}") as answer:
            return answer.read()

    with serving([program("Orthanc", "orthanc"), str(settings)], dicom, web):
        sent(results, dicom)
        assert len(json.loads(asked("/patients"))) == len(json.loads(asked("/studies"))) == 1
        same(
            [pydicom.dcmread(BytesIO(asked(f"/instances/{name}/file"))) for name in json.loads(asked("/instances"))],
            results,
        )


def test_numbers_and_descriptions_tell_models_apart(ct):
    from medi2i.common.inference.generator import Model
    from medi2i.common.inference.results import _described
    from medi2i.common.options import PairedOptions
    from medi2i.datasets.dicom.new_series import DerivedSeries

    header = ct(np.zeros((4, 4), np.uint16), SeriesNumber=7)
    made = {
        sha: DerivedSeries(header, model_name="enc_x1.npz", model_sha256=sha, description="x").number
        for sha in ("ab" * 32, "cd" * 32)
    }
    again = DerivedSeries(header, model_name="enc_x1.npz", model_sha256="ab" * 32, description="x").number
    assert again == made["ab" * 32] != made["cd" * 32] and all(70001 <= number <= 79999 for number in made.values())
    for number in (None, 0, -5, 2**31 - 1):
        header.SeriesNumber = number
        assert 0 <= DerivedSeries(header, model_name="a", description="x").number < 2**31
    by = "pix2pix", Model(None, PairedOptions(), "enc_x1.npz", "ab" * 32, "xy")
    assert _described("Head 2 mm", *by, "") == "Head 2 mm pix2pix abababab"
    assert _described("A" * 80, *by, "2") == "A" * 45 + " pix2pix abababab 2" and 45 + 19 == 64
    assert _described("", "pix2pix", Model(None, PairedOptions(), "identity", "", "xy"), "") == "pix2pix identity"
