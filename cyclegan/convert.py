"""Convert images with a trained CycleGAN, in either direction; DICOM to DICOM, every other kind to its own.

python cyclegan/convert.py RUN -R data/mr -o converted
python cyclegan/convert.py -m RUN/enc_y50.npz -R data/ct -o converted_back
"""

import sys

from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError, run
from medi2i.common.inference import setup
from medi2i.common.inference.analysis import load_analysis
from medi2i.common.inference.conversion import Plan, convert
from medi2i.common.inference.graph_engines import examples_of
from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.network import Network, engine_of, load_model, network_of
from medi2i.common.inference.ranks import sharing
from medi2i.common.inference.results import Format
from medi2i.common.inference.slices import Preparation
from medi2i.common.inference.stacks import Combine
from medi2i.common.inference.uncertainty import sampled, samples_of
from medi2i.common.networks.sizes import fitting_of
from medi2i.common.options import UnpairedOptions
from medi2i.common.options.conversion import UnpairedConversionOptions, parse_conversion
from medi2i.datasets.grid import STEP
from medi2i.datasets.scaling import UNPAIRED_HU, Clip
from medi2i.datasets.unpaired import HU_KINDS


def command(argv):
    """``cyclegan/convert.py`` with the arguments ``argv``; returns the status."""
    options, given = parse_conversion(UnpairedConversionOptions, argv, "medi2i-cyclegan-convert", __doc__)
    use_cpu_engine(options.cpu_engine)
    use_gpu_engine(options.gpu_engine)
    crew, options = sharing(options)
    with crew:
        return convert(crew.agree(lambda: plan_of(options, load_model(options, given, UnpairedOptions))), crew)


def plan_of(options, model):
    """The Plan of a conversion by ``model`` (``inference.network.Model``). Raises UserError."""
    trained, generator, device = model.trained, model.generator, choose_device(options.gpu)
    forward = model.direction == "xy"
    option_in, option_out = ("clipA", "clipB") if forward else ("clipB", "clipA")
    kind_in, kind_out = _kinds(trained, forward)
    stack, released, as_released = trained.stack, setup.released(model), setup.as_released(model)
    slice_range = options.slice_range or (trained.slice_range if as_released else None)
    if generator is None:
        stack, kind_out = 1, None
    spacing = trained.forceSpacing if options.forceSpacing is None else options.forceSpacing
    crop, fixed = setup.crop_of(options, model)
    inputs = find_inputs(
        options.root,
        kind=options.imgtype,
        preferred=kind_in,
        pattern=options.fn_pattern,
        list_file=options.val,
        columns=(options.from_col or [0])[:1],
        exclude=options.out,
        slice_range=slice_range,
        released=released,
    )
    found = inputs.sources[0].kind
    kind_out = options.imgtype_out or kind_out
    clip_in = setup.clip_of(options, trained, option_in, found in HU_KINDS)
    clip_out = setup.clip_of(
        options, trained, option_out, (kind_out or found) in (setup.IN_HU if as_released else HU_KINDS)
    )
    if generator is None:
        clip_in = clip_out = setup.clips_of_identity(options, option_in, found, kind_out)
    keep = setup.kept_outside(options, model, inputs, clip_in, clip_out)
    settings = setup.pixel_settings(
        options,
        model,
        clip_in=clip_in,
        clip_out=clip_out,
        keep=keep,
        more={"spacing": spacing if spacing > 0 else None, "body": trained.clip_body},
    )

    numbers = setup.GREY_LEVELS if as_released else Clip()
    preparation = Preparation(
        clip_in,
        UNPAIRED_HU,
        setup.per_slice(trained.ch if forward else trained.out_ch, stack, model),
        crop,
        spacing=spacing if spacing > 0 else None,
        fixed=fixed,
        body=trained.clip_body and generator is not None,
        numbers=numbers,
        released=released,
        step=STEP if as_released else 1,
    )

    def any_size(translation, images=1):
        engine = engine_of(
            translation,
            device,
            options,
            setup.clip_in_hu(clip_out, inputs, dicom_clip=UNPAIRED_HU),
            lambda: examples_of(inputs, preparation, stack, fitting_of(trained)),
            images,
        )
        return network_of(translation, engine, options.tile, options.tile_overlap)

    network = any_size(generator, 1 if sampled(options) else len(inputs.sources))
    samples = samples_of(
        options,
        model,
        network,
        lambda: network_of(generator, engine_of(generator, device), options.tile, options.tile_overlap),
        device,
        stack=stack,
    )
    return Plan(
        options=options,
        model=model.description,
        settings=settings,
        network=network if samples is None else Network(samples.run),
        samples=samples,
        preparation=preparation,
        form=Format(kind_out, clip_out, UNPAIRED_HU, numbers=numbers, cropped=as_released, keep=keep),
        stack=stack,
        combine=Combine.AVERAGE,
        inputs=inputs,
        compare_edges=not trained.gen_fc,
        description="CycleGAN A to B" if forward else "CycleGAN B to A",
        known=setup.known_change(model, clip_out or (UNPAIRED_HU if found == "dcm" else None), inputs),
        analysis=_analysis(options, model, any_size, device),
    )


def _kinds(trained, forward):
    """(kind of the inputs, of the results or None for the inputs' own) as in training."""
    kind_a, kind_b = trained.imgtype, trained.imgtype_b or trained.imgtype
    kind_in, kind_out = (kind_a, kind_b) if forward else (kind_b, kind_a)
    return kind_in, kind_out if kind_out not in (kind_in, "auto") else None


def _analysis(options, model, any_size, device):
    if not (options.output_analysis or (setup.as_released(model) and model.trained.output_analysis)):
        return None
    if model.generator is None:
        raise UserError("--output_analysis: the identity has no networks to analyse with")
    threshold = model.trained.air_threshold if options.air_threshold is None else options.air_threshold
    return load_analysis(
        model,
        any_size,
        device,
        air_threshold=threshold,
        perceptual_weights=options.perceptual_weights or model.trained.perceptual_weights,
    )


def main(argv=None):
    """Entry point; returns the status of the process."""
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
