"""Options once: parser, help, JSON and Python give the same, old spellings included."""

import dataclasses
import json

import pytest

from medi2i.common.errors import UserError
from medi2i.common.options import (
    Checked,
    PairedOptions,
    UnpairedOptions,
    build_parser,
    load_args,
    option,
    options_from_dict,
    parse,
    save_args,
)
from medi2i.common.options.machinery import default_of

BOTH = [PairedOptions, UnpairedOptions]

# name, short name, default: the released codes' table; None where the default depends on the images
RELEASED_BOTH = """
out -o 'result'|root -R 'data'|crop_width -cw None|crop_height -ch None|grey - False|batch_size -b 1|
learning_rate -lr None|lr_drop - 1|weight_decay -wd 1e-07|snapinterval -si -1|vis_freq -vf None|lambda_tv -ltv 0|
lambda_reg -lreg 0|lambda_wgan_gp -lwgp 10|tv_tau -tt 0.001|random_translate -rt 4|random_rotation -rr 0|
random_scale -rs 0|noise -n 0|noise_z -nz 0|load_optimizer -mo False|optimizer -op 'Adam'|dtype -dt 'fp32'|
eqconv -eq False|spconv -sp False|senet -se False|dis_activation -da 'lrelu'|dis_out_activation -do 'none'|
dis_ksize -dk 4|dis_chs -dc None|dis_basech -db 64|dis_ndown -dl 3|dis_down -dd 'down'|dis_sample -ds 'down'|
dis_jitter - 0.2|dis_dropout -ddo None|dis_reg_weighting -dw 0|dis_wgan -wgan False|dis_attention - False|
gen_pretrained_encoder -gp ''|gen_pretrained_lr_ratio -gpr 0|gen_activation -ga 'relu'|gen_out_activation -go 'tanh'|
gen_chs -gc None|gen_ndown -gl 3|gen_fc -gfc 0|gen_fc_activation -gfca 'relu'|gen_nblock -gnb 9|gen_ksize -gk 3|
gen_sample -gs 'none-7'|gen_down -gd 'down'|gen_dropout -gdo None|skipdim -sd 4|latent_dim - -1|
learning_rate_gen -lrg 0.0002|learning_rate_dis -lrd 0.0001|model_gen -m None"""
RELEASED_PAIRED = """
btoa - False|train -t '__train__'|val - '__test__'|from_col -c1 [0]|to_col -c2 [1]|fn_pattern -fn None|clipA -ca None|
clipB -cb None|class_num -cn 0|class_weight - None|stack - 1|epoch -e 400|weight_decay_norm -wn 'l2'|
display_interval - 100|nvis - 3|vis_random -vr False|parameter_statistics -ps False|lambda_rec_l1 -l1 10|
lambda_rec_l2 -l2 0|lambda_rec_ce -lce 0|lambda_dice -ldice 0|lambda_dis -ldis 1|lambda_mispair -lm 0|focal_gamma -fg 2|
loss_ksize -lk 1|model_dis -md None|dis_norm -dn 'batch_aff'|dis_warmup - -1|gen_basech -gb 64|gen_up -gu 'resize'|
gen_norm -gn 'batch_aff'|gen_attention - False|unet -u 'conv'"""
RELEASED_UNPAIRED = """
epoch -e 50|dis_norm -dn 'instance'|gen_basech -gb 32|gen_up -gu 'unpool'|gen_norm -gn 'instance'|unet -u 'none'|
learning_freq_d -lfd 1|iteration - None|slice_range -sr None|forceSpacing -fs -1|stack -ns 1|dis_pretrained -dp ''|
dis_pretrained_lr_ratio -dpr 0|single_encoder -senc False|lambda_A -lcA 10|lambda_B -lcB 10|lambda_Az -lcAz 1|
lambda_Bz -lcBz 1|lambda_identity_x -lix 0|lambda_identity_y -liy 0|perceptual_layer -pl 'conv1_2'|lambda_grad -lg 0|
lambda_air -la 0|lambda_domain -ld 0.1|lambda_idempotence -lidm 0|lambda_dis_y -ly 1|lambda_dis_x -lx 1|
lambda_dis_z -lz 0|tv_method -tm 'usual'|air_threshold -at -0.997|nvis_A - 3|nvis_B - 3|output_analysis -oa False"""


def table(text):
    for row in text.replace("\n", "").split("|"):
        name, short, default = row.split(" ", 2)
        yield name, short, eval(default)


CASES = [
    (cls, *row)
    for cls, text in (
        (PairedOptions, RELEASED_BOTH + "|" + RELEASED_PAIRED),
        (UnpairedOptions, RELEASED_BOTH + "|" + RELEASED_UNPAIRED),
    )
    for row in table(text)
]


@pytest.mark.parametrize("cls,name,short,default", CASES)
def test_released_names_and_defaults(cls, name, short, default):
    field = cls.__dataclass_fields__[name]
    assert default_of(field) == default
    assert short == "-" or short in field.metadata["flags"]


@pytest.mark.parametrize("cls", BOTH)
def test_every_option_parses_its_own_default_and_help_shows_it(cls, capsys):
    argv = []
    for field in dataclasses.fields(cls):
        if field.metadata["flags"] is None:
            continue
        value = default_of(field)
        if value is None or value is False or value == "":
            continue
        argv += ["--" + field.name] + [str(v) for v in (value if isinstance(value, list) else [value])]
    assert parse(cls, argv) == cls()
    with pytest.raises(SystemExit) as end:
        parse(cls, ["--help-all"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(cls):
        if field.metadata["flags"] is not None:
            assert "--" + field.name in text
    for title in ("Generator:", "Discriminator:", "Training:", "Files and devices:"):
        assert title in text
    assert "shortcut) [none-7]" in text


@pytest.mark.parametrize("cls", BOTH)
def test_no_spelling_is_used_twice(cls):
    seen = [spelling for action in build_parser(cls)._actions for spelling in action.option_strings]
    assert len(seen) == len(set(seen))


def test_tutorial_command_line():
    options = parse(
        PairedOptions,
        "-i data/ldct -it dcm -ch 480 -cw 480 -e 50 -gc 32 64 128 -l1 1.0 -l2 0 -ldis 0.1 "
        "-ltv 1e-4 -ca -1024 2000 -g -1".split(),
    )
    assert (options.root, options.crop_height, options.gen_chs, options.lambda_tv, options.clipA, options.gpu) == (
        "data/ldct",
        480,
        [32, 64, 128],
        1e-4,
        [-1024.0, 2000.0],
        -1,
    )


@pytest.mark.parametrize("number", ["-1e-3", "-.5", "-1e3", "-2."])
def test_negative_numbers_are_values(number):
    assert parse(UnpairedOptions, ["-at", number]).air_threshold == float(number)


def test_old_spellings():
    options = parse(
        UnpairedOptions,
        "-huba -1000 -hura 1500 --HU_baseB -500 -lrg 1 --learning_rate_d 2 -ns 3 "
        "--load_models w.npz -hubv -160 -hurv 400".split(),
    )
    assert (options.clipA, options.clipB, options.vis_window) == ([-1000, 500], [-500, 700], [-160, 240])
    assert (options.learning_rate_gen, options.learning_rate_dis) == (1, 2)
    assert (options.stack, options.model_gen) == (3, "w.npz")
    with pytest.raises(UserError, match="--clipA: given together with --HU_baseA"):
        parse(UnpairedOptions, "-ca 0 1 -huba 0".split())


@pytest.mark.parametrize(
    "spelling, kind",
    [
        ("JPG", "jpg"),
        ("jpeg", "jpg"),
        ("TIFF", "tif"),
        ("IMA", "dcm"),
        ("gif", "gif"),
        (".png", "png"),
        ("Auto", "auto"),
    ],
)
def test_kinds_of_images_as_suffixes(spelling, kind):
    """The released codes took any suffix of files, on the command line and so in args."""
    assert parse(PairedOptions, ["-it", spelling]).imgtype == kind
    assert options_from_dict({"gen_norm": "batch", "imgtype": spelling}).imgtype == kind


def test_only_the_first_of_several_gpus_is_taken_and_that_is_told(caplog):
    options = parse(UnpairedOptions, "-g 2 1 -e 3".split())
    assert (options.gpu, options.epoch) == (2, 3) and "--gpu: 2 1: one process uses one GPU, 2" in caplog.text
    caplog.clear()
    assert parse(UnpairedOptions, "--gpu 0 -e 3".split()).gpu == 0 and parse(UnpairedOptions, ["-g", "-1"]).gpu == -1
    assert not caplog.records


@pytest.mark.parametrize(
    "cls, given, expected",
    [
        (
            PairedOptions,
            "--lambda_rec_l1 1 --lambda_w 3 --gen_pretrained_l 0.5 --sen",
            {"lambda_rec_l1": 1, "lambda_wgan_gp": 3, "gen_pretrained_lr_ratio": 0.5, "senet": True},
        ),
        (
            UnpairedOptions,
            "--lambda_g 2 --gen_a tanh --num 3 --slice=1 --noise 1".replace("--slice=1", "--slice 1 2"),
            {"lambda_grad": 2, "gen_activation": "tanh", "stack": 3, "slice_range": [1, 2], "noise": 1, "noise_x": 0},
        ),
        (UnpairedOptions, "--learning_rate_d=1e-3 --HU_baseA=-500", {"learning_rate_dis": 1e-3, "clipA": [-500, 700]}),
    ],
)
def test_old_options_may_be_abbreviated_as_argparse_had_it(cls, given, expected):
    """By what the old codes had: no new option makes an old abbreviation ambiguous."""
    options = parse(cls, given.split())
    assert {name: getattr(options, name) for name in expected} == expected


def test_an_abbreviation_that_was_ambiguous_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        parse(PairedOptions, ["--model", "x"])
    assert end.value.code == 2
    assert "--model is short for --model_dis and for --model_gen" in capsys.readouterr().err


@pytest.mark.parametrize("cls", BOTH)
def test_every_released_option_is_there(cls):
    """``RELEASED`` and the table above say the same, and each name parses."""
    there = {name for other, name, _, _ in CASES if other is cls}
    otherwise = {"argfile", "gpu", "imgtype"}  # with another default here, so not in the table
    field_of = {flag: field.name for field in dataclasses.fields(cls) for flag in field.metadata["flags"] or ()}
    released = {field_of.get("--" + name, name) for name in cls.RELEASED if not name.startswith("HU_")}
    assert released - otherwise == there
    known = {spelling for action in build_parser(cls)._actions for spelling in action.option_strings}
    assert {"--" + name for name in cls.RELEASED} <= known


def test_learning_rate_gives_the_discriminator_half():
    assert PairedOptions(learning_rate=1e-3).rates == (1e-3, 5e-4)
    assert PairedOptions(learning_rate=0, learning_rate_gen=0.3).rates == (0.3, 1e-4)  # 0: as if not given
    assert PairedOptions().rates == (2e-4, 1e-4)


@pytest.mark.parametrize(
    "argv,words",
    [
        (["-gn", "btach"], ["--gen_norm", "'btach'", "did you mean batch", "fnorm"]),
        (["-gc", "8", "x"], ["--gen_chs", "'x'", "whole number"]),
        (["-b", "0"], ["--batch_size", "at least 1"]),
        (["-b", "1.5"], ["--batch_size", "whole number"]),
        (["-gu", "bicubic"], ["--gen_up", "resize_conv"]),
        (["-l1", "nan"], ["--lambda_rec_l1", "at least 0"]),
        (["-rs", "2"], ["--random_scale", "at most 0.9"]),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(argv, words):
    with pytest.raises(UserError) as refused:
        parse(PairedOptions, argv)
    for word in words:
        assert word in str(refused.value)


def test_unknown_option_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as end:
        parse(PairedOptions, ["--no_such_thing"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["error: --no_such_thing: no such option (see --help)"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--epochs", "5"], "--epochs: no such option; did you mean --epoch?"),
        (["--batch-size=5"], "--batch-size: no such option; did you mean --batch_size?"),
        (["data", "more"], "more: nothing is expected here that follows no option"),
        (["-i", "data", "more"], "more: nothing is expected here that follows no option"),
    ],
)
@pytest.mark.parametrize("cls", BOTH)
def test_what_is_mistyped_is_told_with_what_was_meant(cls, words, said, capsys):
    with pytest.raises(SystemExit) as end:
        parse(cls, words)
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {said} (see --help)\n"


@pytest.mark.parametrize("cls", BOTH)
def test_words_that_follow_no_option_are_the_folder_of_the_images(cls):
    assert (
        parse(cls, ["data/ldct", "-e", "3"]) == parse(cls, ["-e", "3", "data/ldct"]) == cls(root="data/ldct", epoch=3)
    )


def test_lists_of_texts_grow_and_of_other_options_the_last_one_counts():
    words = ["--segmentor", "one", "--segmentor", "two", "-gc", "8", "16", "-gc", "32", "-o", "a", "-o", "b"]
    options = parse(UnpairedOptions, words)
    assert (options.segmentor, options.gen_chs, options.out) == (["one", "two"], [32], "b")


@pytest.mark.parametrize("cls", BOTH)
def test_help_is_short_and_names_what_a_beginner_needs(cls, capsys):
    with pytest.raises(SystemExit):
        parse(cls, ["--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 70
    for name in ("--root", "--out", "--gpu", "--preset", "--epoch", "--resume", "--check", "--help-all"):
        assert f" {name} " in text
    assert "--lambda_tv" not in text and "Generator:" not in text


def test_help_of_a_class_that_marks_none_shows_all(capsys):
    @dataclasses.dataclass
    class Few(Checked):
        """What to do"""

        one: str = option("a", "-o", help="the first")
        two: int = option(2, type=int, help="the second")

    with pytest.raises(SystemExit):
        parse(Few, ["-h"], "About it.\n\n  python tools/few.py -o b\n\nMore.\n")
    text = capsys.readouterr().out
    assert "--two" in text and "--help-all" not in text
    with pytest.raises(SystemExit):
        parse(Few, ["--help-all"])
    assert "--two" in capsys.readouterr().out
    assert "About it." in text and "python tools/few.py -o b" in text and "More." not in text


@pytest.mark.parametrize("cls", BOTH)
def test_json_round_trip_and_argfile(cls, tmp_path):
    options = cls(gen_chs=[8, 16], eqconv=True, clipA=[-1000, 500.5], gen_norm="instance", ch=1, out_ch=3, epoch=7)
    save_args(options, tmp_path / "args")
    assert load_args(tmp_path / "args") == options
    assert load_args(tmp_path) == options
    again = parse(cls, ["-a", str(tmp_path / "args"), "-e", "9", "--no-eqconv"])
    assert (again.epoch, again.eqconv, again.gen_chs, again.out_ch) == (9, False, [8, 16], 3)


def test_argfile_flags_decide(tmp_path):
    """The released codes ignore saved switches and then build another network without a word."""
    (tmp_path / "args").write_text(json.dumps({"gen_norm": "batch_aff", "eqconv": True, "gen_attention": True}))
    options = parse(PairedOptions, ["-a", str(tmp_path / "args")])
    assert options.eqconv and options.gen_attention


@pytest.mark.parametrize("cls", BOTH)
def test_null_in_args_is_not_given(cls):
    """Whatever option it is; "" is what those codes save for no weights."""
    content = {name: None for name in cls.RELEASED} | {"gen_norm": "batch", "model_gen": ""}
    options = options_from_dict(content)
    clips = {} if cls is PairedOptions else {"clipA": [-1024, 176], "clipB": [-1024, 176], "clips_in_hu": True}
    assert options == cls(gen_norm="batch", released="args", **clips)


def test_args_of_the_released_codes_are_told_from_ours(tmp_path):
    """Ours say which version wrote them. Continued from released ones, the released rules go on."""
    (tmp_path / "args").write_text(json.dumps({"gen_norm": "batch_aff"}))
    old = parse(PairedOptions, ["-a", str(tmp_path / "args"), "-e", "7"])
    assert old.released == "args" and PairedOptions().released is None
    for options, again in ((old, "continued"), (PairedOptions(), None)):
        save_args(options, tmp_path / "new")
        assert load_args(tmp_path / "new") == dataclasses.replace(options, released=again)


def test_released_unpaired_args_are_understood():
    options = options_from_dict(
        {
            "lambda_A": 10,
            "gen_norm": "instance",
            "HU_baseA": -1024,
            "HU_rangeA": 1200,
            "HU_base_vis": 0,
            "HU_range_vis": 0,
            "num_slices": 3,
            "gpu": [0],
            "load_models": "",
            "learning_rate_g": 1e-3,
            "clipB": None,
        }
    )
    assert isinstance(options, UnpairedOptions)
    assert (options.clipA, options.stack, options.gpu, options.learning_rate_gen, options.vis_window) == (
        [-1024, 176],
        3,
        0,
        1e-3,
        None,
    )


@pytest.mark.parametrize(
    "content,words",
    [
        ("{", "not JSON"),
        ("[]", "one JSON object"),
        ("{}", "names no network"),
        ('{"gen_norm": "x"}', "--gen_norm"),
        ('{"gen_norm": "batch", "application": "x"}', "application 'x'"),
    ],
)
def test_bad_args_files(tmp_path, content, words):
    (tmp_path / "args").write_text(content)
    with pytest.raises(UserError, match=words) as refused:
        load_args(tmp_path)
    assert str(tmp_path / "args") in str(refused.value)


def test_argfile_of_the_other_application(tmp_path):
    save_args(UnpairedOptions(), tmp_path / "args")
    with pytest.raises(UserError, match="another application"):
        parse(PairedOptions, ["-a", str(tmp_path / "args")])
    with pytest.raises(UserError, match="no such file"):
        parse(PairedOptions, ["-a", str(tmp_path / "none")])
