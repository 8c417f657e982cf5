"""Small DICOM series and run folders with weights whose effect is known."""

import json
import types

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medi2i.common.inference.report import beside, find_report
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, UnpairedOptions, save_args

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def write_slice(
    path,
    stored,
    *,
    series="1.2.3.1",
    z=0.0,
    number=1,
    spacing=(0.8, 0.9),
    slope=1,
    intercept=-1024,
    padding=None,
    modality="CT",
    description="axial",
):
    """One slice of unsigned 16-bit ``stored`` (H, W)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_STORAGE if modality == "CT" else MR_STORAGE
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Test", "T1", "", ""
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.3", series, "1.2.4"
    d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber, d.ReferringPhysicianName = "20200102", "1200", "1", "", ""
    d.Modality, d.SeriesNumber, d.InstanceNumber, d.SeriesDescription = modality, 3, number, description
    d.ImageType, d.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "Maker"
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness = list(spacing), 2
    d.Rows, d.Columns = stored.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    if modality == "CT":
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = slope, intercept, "HU"
    if padding is not None:
        d.PixelPaddingValue = padding
    d.PixelData = stored.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)
    return path


def stored_image(seed, height=37, width=50):
    """Stored values of -1000 … 1500 HU, in whole numbers."""
    return np.random.default_rng(seed).integers(24, 2524, size=(height, width)).astype(np.uint16)


def write_series(folder, count=4, *, start=0, height=37, width=50, **options):
    """``count`` slices without suffix, in a folder; their names do not follow their order in space."""
    for i in range(count):
        write_slice(
            folder / f"IM{(i * 7) % 10 + 10 * start}",
            stored_image(i + 100 * start, height, width),
            z=2.0 * i,
            number=i + 1,
            **options,
        )
    return folder


def hu_of(path):
    """HU of a file, read with pydicom alone."""
    d = pydicom.dcmread(path)
    return d.pixel_array.astype(np.float64) * float(d.RescaleSlope) + float(d.RescaleIntercept)


def report_of(folder):
    """The conversion.json of results in ``folder``."""
    return json.loads(find_report(folder).read_text())


def contents(folder):
    """Name → bytes of all results below ``folder``, the report among them wherever it lies."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found | {
        path.relative_to(beside(folder)).as_posix(): path.read_bytes()
        for path in beside(folder).rglob("*")
        if path.is_file()
    }


def tree(folder):
    """Relative paths of all files below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _delta(link):
    """Make a convolution give its input channel 0 in every output channel."""
    link.W.array[...] = 0
    centre = link.W.shape[2] // 2
    link.W.array[:, 0, centre, centre] = 1
    link.b.array[...] = 0


def plain_generator(networks, first, kernel, offset=0.0):
    """Give ``networks`` (one level, no norm, no activation) the effect of one ``kernel`` (k, k) and an offset."""
    encoder, decoder = networks.as_dict()[first], networks.as_dict()["dec_y" if first == "enc_x" else "dec_x"]
    for block in (encoder.c0, decoder.ua1, decoder.ul):
        _delta(block.c1.c)
    weights = encoder.c0.c1.c.W.array
    weights[...] = 0
    low = (7 - len(kernel)) // 2
    weights[:, 0, low : low + len(kernel), low : low + len(kernel)] = kernel
    decoder.ul.c1.c.b.array[...] = offset


PLAIN = dict(gen_chs=[1], gen_nblock=0, gen_norm="none", gen_activation="none", gen_out_activation="none", unet="none")


@pytest.fixture
def paired_run(tmp_path):
    """make(kernel, **options) -> run folder of a pix2pix that convolves with the kernel (default: the identity)."""
    from medi2i.pix2pix.net import build

    def make(kernel=((1.0,),), offset=0.0, name="run", epoch=3, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        chosen = PairedOptions(
            **{
                **PLAIN,
                "lambda_dis": 0,
                "clipA": [-1024, 2000],
                "clipB": [-1024, 2000],
                "ch": 1,
                "out_ch": 1,
                **options,
            }
        )
        np.random.seed(0)
        networks = build(chosen)
        if chosen.gen_chs == [1]:
            plain_generator(networks, "enc_x", np.array(kernel, np.float32), offset)
        save_args(chosen, folder / "args")
        save_networks(folder, networks.as_dict(), epoch)
        return folder

    return make


@pytest.fixture
def unpaired_run(tmp_path):
    """make(forth, back, **options) -> run folder of a CycleGAN that convolves with ``forth`` (X→Y) and ``back``."""
    from medi2i.cyclegan.net import build

    def make(forth=((1.0,),), back=((1.0,),), name="cycle", **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        chosen = UnpairedOptions(
            **{
                **PLAIN,
                "dis_chs": [2, 4],
                "dis_norm": "none",
                "clipA": [-1024, 2000],
                "clipB": [-1024, 2000],
                "ch": 1,
                "out_ch": 1,
                **options,
            }
        )
        np.random.seed(0)
        networks = build(chosen)
        plain_generator(networks, "enc_x", np.array(forth, np.float32))
        plain_generator(networks, "enc_y", np.array(back, np.float32))
        save_args(chosen, folder / "args")
        save_networks(folder, networks.as_dict(), 3)
        return folder

    return make


@pytest.fixture
def files():
    """The functions above, for tests: files are imported by path, so they cannot import this one."""
    return types.SimpleNamespace(
        write_slice=write_slice,
        write_series=write_series,
        stored_image=stored_image,
        hu_of=hu_of,
        tree=tree,
        report_of=report_of,
        contents=contents,
    )
