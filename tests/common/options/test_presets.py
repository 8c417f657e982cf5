"""Presets: what they set, what wins over them, and that each one trains and converts."""

import json

import numpy as np
import pytest
from PIL import Image

from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args, options_from_dict, parse, save_args
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.cyclegan import train as cyclegan_train
from medi2i.pix2pix import convert as pix2pix_convert
from medi2i.pix2pix import train as pix2pix_train

BOTH = [PairedOptions, UnpairedOptions]
CASES = [(cls, name) for cls in BOTH for name in cls.PRESETS]
CLASSES = ["-cn", "3"]


def argv_of(cls, name):
    return ["--preset", name, *(CLASSES if "class_num" in cls.PRESETS[name].needs else [])]


@pytest.mark.parametrize("cls,name", CASES)
def test_each_value_is_an_option_and_has_a_reason(cls, name):
    preset, options = cls.PRESETS[name], parse(cls, argv_of(cls, name))
    names = [setting.name for setting in preset.settings]
    assert len(set(names)) == len(names)
    for setting in preset.settings:
        field = cls.__dataclass_fields__[setting.name]
        wanted = list(setting.value) if isinstance(setting.value, tuple) else setting.value
        assert getattr(options, setting.name) == wanted
        assert field.metadata["flags"] is not None and len(setting.reason) > 10
    assert options.preset == name


@pytest.mark.parametrize("cls,name", CASES)
def test_the_listing_has_all_of_it(cls, name, capsys):
    with pytest.raises(SystemExit) as end:
        parse(cls, ["--list_presets"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    block = next(block for block in text.split("\n\n") if block.startswith(name + ":"))
    for setting in cls.PRESETS[name].settings:
        assert any(
            line.split()[0] == "--" + setting.name and line.endswith(setting.reason) for line in block.splitlines()[1:]
        )


def test_without_a_preset_the_released_defaults_stay():
    assert parse(PairedOptions, []) == PairedOptions()
    assert PairedOptions().preset is None


def test_explicit_options_win_in_any_order():
    for argv in (
        ["--preset", "denoise", "-gn", "instance", "-b", "3"],
        ["-b", "3", "-gn", "instance", "--preset", "denoise"],
    ):
        options = parse(PairedOptions, argv)
        assert (options.gen_norm, options.batch_size, options.lambda_dis) == ("instance", 3, 0)
    # The released default, given explicitly, wins as well.
    assert parse(PairedOptions, ["--preset", "denoise", "-ldis", "1"]).lambda_dis == 1


def test_options_that_say_the_same_otherwise_win():
    options = parse(PairedOptions, ["--preset", "denoise", "-gb", "24"])
    assert (options.gen_chs, options.gen_basech) == (None, 24)
    assert parse(PairedOptions, ["--preset", "denoise", "-lr", "0.5"]).rates == (0.5, 0.25)
    assert parse(PairedOptions, ["--preset", "denoise", "-lrg", "0.5"]).rates[0] == 0.5


def test_a_preset_goes_over_an_args_file_and_is_not_applied_again(tmp_path):
    save_args(PairedOptions(gen_norm="instance", learning_rate=0.5, nvis=7), tmp_path / "args")
    options = parse(PairedOptions, ["-a", str(tmp_path / "args"), "--preset", "denoise"])
    assert (options.gen_norm, options.nvis, options.rates[0]) == ("none", 7, 3e-3)

    save_args(parse(PairedOptions, ["--preset", "denoise", "-gn", "instance"]), tmp_path / "args")
    saved = json.loads((tmp_path / "args").read_text())
    assert (saved["preset"], saved["gen_norm"], saved["lambda_dis"]) == ("denoise", "instance", 0)
    for options in (load_args(tmp_path), parse(PairedOptions, ["-a", str(tmp_path / "args")])):
        assert (options.preset, options.gen_norm) == ("denoise", "instance")
    del saved["lambda_dis"]  # as if the preset had got this value later: what is saved is all there is
    assert options_from_dict(saved).lambda_dis == 1


def test_what_a_preset_needs_may_stand_in_the_args_file(tmp_path):
    save_args(PairedOptions(class_num=5), tmp_path / "args")
    options = parse(PairedOptions, ["-a", str(tmp_path / "args"), "--preset", "segment"])
    assert (options.class_num, options.lambda_dice, options.lambda_dis) == (5, 1, 0)


@pytest.mark.parametrize(
    "cls,argv,words",
    [
        (PairedOptions, ["--preset", "deniose"], "--preset: 'deniose' is unknown .did you mean denoise.*; it can be"),
        (UnpairedOptions, ["--preset", "segment"], "--preset: 'segment' is unknown; it can be denoise"),
        (PairedOptions, ["--preset", "segment"], "--preset segment: it needs --class_num"),
    ],
)
def test_refusals(cls, argv, words):
    with pytest.raises(UserError, match=words):
        parse(cls, argv)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(3)
    for folder in ("trainA", "trainB", "testA", "testB", "labels/trainA", "labels/trainB"):
        (root / folder).mkdir(parents=True)
        for number in range(2):
            top = 3 if folder == "labels/trainB" else 256
            Image.fromarray(random.integers(0, top, (20, 24)).astype(np.uint8)).save(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize("cls,name", CASES)
def test_each_preset_trains_and_converts(cls, name, data, tmp_path):
    paired = cls is PairedOptions
    train, convert = (pix2pix_train, pix2pix_convert) if paired else (cyclegan_train, cyclegan_convert)
    root = data / "labels" if "class_num" in cls.PRESETS[name].needs else data
    quick = ["-cw", "16", "-ch", "16", "-gc", "2", "4", "-gnb", "2", "-dc", "2", "2", "-b", "2", "-e", "1", "-g", "-1"]
    quick += ["--nvis", "0"] if paired else ["--nvis_A", "0", "--nvis_B", "0"]
    assert train.main(["-R", str(root), "-o", str(tmp_path / "runs"), *argv_of(cls, name), *quick]) == 0
    run = next((tmp_path / "runs").iterdir())
    options = load_args(run)
    assert options.preset == name and options.batch_size == 2
    size = ["-cw", "16", "-ch", "16"] if options.gen_fc else []
    assert convert.main([str(run), "-R", str(root / "trainA"), "-o", str(tmp_path / "out"), "-g", "-1", *size]) == 0
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert [file["status"] for file in report["files"].values()] == ["written"] * 2
