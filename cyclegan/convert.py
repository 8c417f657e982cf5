"""Convert images with a trained CycleGAN, in either direction; DICOM to DICOM, every other kind to its own.

python cyclegan/convert.py RUN -R data/mr -o converted
python cyclegan/convert.py -m RUN/enc_y50.npz -R data/ct -o converted_back
"""

import functools
import sys
from collections.abc import Sequence

from medi2i.common.errors import as_main
from medi2i.common.inference.analysis import Analysis
from medi2i.common.inference.conversion import run_conversion
from medi2i.common.inference.generator import Model
from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.pipeline import Combine
from medi2i.common.inference.plan import GREY_LEVELS, Plan, clips_of, make_plan, prepared
from medi2i.common.options import UnpairedOptions
from medi2i.common.options.conversion import UnpairedConversionOptions, parse_conversion
from medi2i.datasets.catalogue import Catalogue
from medi2i.datasets.scaling import UNPAIRED_HU, Clip
from medi2i.datasets.unpaired import HU_KINDS


def command(argv: Sequence[str] | None) -> int:
    """``cyclegan/convert.py`` with the arguments ``argv``; returns the status."""
    options, given = parse_conversion(UnpairedConversionOptions, argv, __doc__)
    return run_conversion(options, given, UnpairedOptions, images_of, plan_of).status


def images_of(options: UnpairedConversionOptions, model: Model[UnpairedOptions]) -> Catalogue:
    """The images that ``model`` is to convert. Raises UserError."""
    return find_inputs(
        options.root,
        kind=options.imgtype,
        preferred=_kinds(model)[0],
        pattern=options.fn_pattern,
        list_file=options.val,
        columns=(options.from_col or [0])[:1],
        exclude=options.out,
        slice_range=options.slice_range or (model.trained.slice_range if model.as_released else None),
        released=model.released,
    )


def plan_of(options: UnpairedConversionOptions, model: Model[UnpairedOptions], images: Catalogue) -> Plan:
    """The Plan of a conversion of ``images`` by ``model``. Raises UserError."""
    trained, forward, identity = model.trained, model.direction == "xy", model.generator is None
    found, kind = images.sources[0].kind, options.imgtype_out or _kinds(model)[1]
    clip_in, clip_out = clips_of(
        options,
        model,
        ("clipA", "clipB") if forward else ("clipB", "clipA"),
        (found, kind),
        in_hu=(found in HU_KINDS, (kind or found) in (("dcm",) if model.as_released else HU_KINDS)),
    )
    spacing = trained.forceSpacing if options.forceSpacing is None else options.forceSpacing
    preparation = prepared(
        options,
        model,
        images,
        "AB"[not forward],
        clip_in,
        UNPAIRED_HU,
        trained.ch if forward else trained.out_ch,
        spacing=spacing if spacing > 0 else None,
        body=trained.clip_body and not identity,
        numbers=GREY_LEVELS if model.as_released else Clip(),
    )
    analysed = options.output_analysis or (model.as_released and trained.output_analysis)
    return make_plan(
        options,
        model,
        images,
        preparation,
        kind=kind,
        clip=clip_out,
        combine=Combine.AVERAGE,
        description="CycleGAN A to B" if forward else "CycleGAN B to A",
        settings={"spacing": preparation.spacing, "body": trained.clip_body},
        load_analysis=functools.partial(Analysis, model, options) if analysed else None,
    )


def _kinds(model: Model[UnpairedOptions]) -> tuple[str, str | None]:
    """(kind of the inputs, of the results or None for the inputs' own) as in training."""
    kind_a, kind_b = model.trained.imgtype, model.trained.imgtype_b or model.trained.imgtype
    kind_in, kind_out = (kind_a, kind_b) if model.direction == "xy" else (kind_b, kind_a)
    return kind_in, kind_out if kind_out not in (kind_in, "auto") and model.generator is not None else None


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
