"""Engines that report their use to their makers, imported so that they do not. Nothing else here imports them."""

import os
import sys


def quiet_openvino():
    """The module ``openvino``, kept from reporting its use to Google Analytics.

    It does so unasked, from a forked process, as soon as it is imported, where ``openvino_telemetry`` is installed,
    which it requires. None in ``sys.modules`` makes that import fail, and OpenVINO goes on without (2024.4 - 2026.4).
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def quiet_onnxruntime():
    """The module ``onnxruntime``, kept from reporting models and sessions to Microsoft.

    Official builds from 1.29 on do so unasked, and keep an identifier in the user's cache folder
    (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). The variable counts where it is set before
    the module is imported for the first time; the function is for Windows, where older builds write to a trace.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
