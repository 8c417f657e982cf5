"""Convert images with a trained pix2pix: files, folders or a list; DICOM to DICOM, every other kind to its own.

python pix2pix/convert.py RUN -R data/ldct/testA -o converted
python pix2pix/convert.py -a RUN/args -m RUN/enc_x50.npz -R data/ldct --val pairs_val.txt -o converted
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from medi2i.common.errors import UserError, as_main
from medi2i.common.inference.conversion import run_conversion
from medi2i.common.inference.generator import Model
from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.noise import for_noise, noises_of, told
from medi2i.common.inference.pipeline import Combine
from medi2i.common.inference.plan import Plan, clips_of, make_plan, prepared
from medi2i.common.options import PairedOptions
from medi2i.common.options.conversion import PairedConversionOptions, parse_conversion
from medi2i.datasets.catalogue import Catalogue
from medi2i.datasets.noise_level import Noise
from medi2i.datasets.scaling import PAIRED_HU
from medi2i.pix2pix.validation import evaluation_command


def command(argv: Sequence[str] | None) -> int:
    """``pix2pix/convert.py`` with the arguments ``argv``; returns the status."""
    options, given = parse_conversion(PairedConversionOptions, argv, __doc__)
    done = run_conversion(options, given, PairedOptions, images_of, plan_of)
    plan = done.plan
    comparable = not plan.form.cropped or plan.images.sources[0].kind == "dcm"  # of the truth's size, in its unit
    if done.complete and len(options.root) == 1 and not done.status and comparable:
        judging = evaluation_command(
            plan.model.trained, options.root[0], options.val, options.out, f"{options.out.rstrip('/')}_evaluation"
        )
        if judging is not None:
            print(f"how good it is, as a report:\n  {judging}", file=sys.stderr)
    return done.status


def images_of(options: PairedConversionOptions, model: Model[PairedOptions]) -> Catalogue:
    """The images that ``model`` is to convert. Raises UserError."""
    if model.direction == "yx":
        raise UserError(f"{model.name}: pix2pix translates one way only; enc_x…npz is its generator")
    return find_inputs(
        options.root,
        kind=options.imgtype,
        preferred=model.trained.imgtype,
        pattern=options.fn_pattern,
        list_file=options.val,
        columns=_columns(options, model.trained),
        exclude=options.out,
        released=model.released,
    )


def plan_of(
    options: PairedConversionOptions,
    model: Model[PairedOptions],
    images: Catalogue,
    measure: Callable[[], Mapping[str, Noise | None]] | None = None,
) -> Plan:
    """The Plan of a conversion of ``images`` by ``model``. Raises UserError.

    measure: the noise of the series by name, for a network of one level, where it is known already.
    """
    trained, identity = model.trained, model.generator is None
    settings: dict[str, object] = {"columns": _columns(options, trained)}
    kind = options.imgtype_out or trained.imgtype_out
    clip_in, clip_out = clips_of(options, model, trained.clip_names, (images.sources[0].kind, kind))
    white = 0.0
    if trained.noise_level is not None and not identity:
        noise = told(options.noise_level, measure or partial(noises_of, images), bool(trained.gen_residual))
        clip_in, clip_out = (for_noise(clip, trained.noise_level, noise.level) for clip in (clip_in, clip_out))
        settings |= {"noise_level": noise.level, "white_noise": noise.white}
        if noise.share < 1:
            part = f"{noise.share:.0%} of the change is made"
            print(f"--noise_level: the images have more noise; {part}", file=sys.stderr)
            options = replace(options, strength=options.strength * noise.share)
        white = noise.white_in(clip_in)
    elif options.noise_level is not None:
        raise UserError("--noise_level: the network was not trained with --noise_level, so it needs none")
    if trained.scale > 1:
        settings["scale"] = trained.scale
    results = len(trained.from_col if trained.btoa else trained.to_col)
    return make_plan(
        options,
        model,
        images,
        prepared(
            options,
            model,
            images,
            trained.clip_names[0][-1],
            clip_in,
            PAIRED_HU,
            trained.ch,
            scale=trained.scale,
        ),
        kind=kind,
        clip=clip_out,
        combine=Combine.MIDDLE,
        description="pix2pix",
        settings=settings,
        classes=0 if identity else trained.class_num,
        results=1 if identity or trained.class_num else results,
        white=white,
    )


def _columns(options: PairedConversionOptions, trained: PairedOptions) -> list[int]:
    """Those of a list, or of ``--from_col``, that become the channels of an image."""
    columns = options.from_col or (trained.to_col if trained.btoa else trained.from_col)
    return columns[:1] if options.val is None else columns


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
