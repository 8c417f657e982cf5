"""The command line of convert.py: a run folder, released spellings, what is refused."""

from pathlib import Path

import pytest

from medi2i.common.errors import UserError
from medi2i.common.options.conversion import PairedConversionOptions, UnpairedConversionOptions, parse_conversion


def test_a_run_folder_may_stand_alone_and_several_roots_be_given():
    options, training = parse_conversion(PairedConversionOptions, ["RUN", "-R", "a", "b", "-o", "out"])
    assert (options.model_gen, options.root, options.out, training) == ("RUN", ["a", "b"], "out", {})


def test_what_is_to_be_converted_needs_no_option_either():
    for words in (["RUN", "a", "b", "-o", "out"], ["-o", "out", "RUN", "a", "b"], ["a", "b", "-o", "out", "-m", "RUN"]):
        options, _ = parse_conversion(PairedConversionOptions, words)
        assert (options.model_gen, options.root, options.out) == ("RUN", ["a", "b"], "out")


@pytest.mark.parametrize("words", [["data", "RUN"], ["RUN", "-m", "RUN/enc_x5.npz"], ["-R", "data", "RUN"]])
def test_a_run_where_images_should_be_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("RUN").mkdir()
    Path("RUN/args").write_text("{}")
    with pytest.raises(UserError, match="--root: RUN is a run folder, where images to convert should be"):
        parse_conversion(PairedConversionOptions, words)


def test_training_options_are_taken_aside():
    options, training = parse_conversion(
        UnpairedConversionOptions,
        ["-m", "enc_x5.npz", "-gc", "32", "64", "--no-eqconv", "-huba", "-1000", "-hura", "2000", "-b", "4"],
    )
    assert options.batch_size == 4 and options.clipA == [-1000, 1000]
    assert training == {"gen_chs": ["32", "64"], "eqconv": False}


def test_an_old_line_with_abbreviations_and_a_list_of_gpus():
    options, training = parse_conversion(
        UnpairedConversionOptions,
        ("--argf args --load_m enc_x5.npz --roo in --output_a --forceS 2 --slice 1 2 -g 0 1 --gen_ch 4 8").split(),
    )
    assert (options.argfile, options.model_gen, options.root, options.gpu) == ("args", "enc_x5.npz", ["in"], 0)
    assert options.output_analysis and (options.forceSpacing, options.slice_range) == (2, [1, 2])
    assert training == {"gen_chs": ["4", "8"]}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["RUN", "--structure", "all"], "none, numbers, maps"),
        (["RUN", "-b", "0"], "--batch_size"),
        (["RUN", "--modality", "US"], "CT, MR, PT"),
        (["RUN", "-ca", "0", "x"], "--clipA"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, words):
    with pytest.raises(UserError, match=words):
        parse_conversion(PairedConversionOptions, arguments)


def test_an_unknown_option_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_conversion(PairedConversionOptions, ["RUN", "--nothing"])
    assert ended.value.code == 2 and "--nothing" in capsys.readouterr().err


def test_help_shows_every_option_once_and_hides_those_of_training(capsys):
    with pytest.raises(SystemExit):
        parse_conversion(UnpairedConversionOptions, ["--help-all"], "Convert.")
    text = capsys.readouterr().out
    for name in ("--model_gen", "--tile", "--forceSpacing", "--output_analysis", "--resume", "RUN"):
        assert name in text
    assert "--gen_chs" not in text and "--lambda_A" not in text
