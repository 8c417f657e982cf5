from cupy import _array, _watch

memcpyDeviceToDevice, memcpyHostToDevice, memcpyDeviceToHost = 3, 1, 2
is_hip = False


class CUDARuntimeError(RuntimeError):
    pass


def getDeviceCount():
    return _array.DEVICES


def getDevice():
    return _array.current_device()


def setDevice(number):
    _array.use_device(number)


def deviceSynchronize():
    _watch.seen("waits")


def runtimeGetVersion():
    return 13000 if _array.VERSION >= 14 else 12060


driverGetVersion = runtimeGetVersion


def getDeviceProperties(number):
    return {
        "name": b"stand-in without a GPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 1,
        "totalGlobalMem": 1 << 36,
    }


def memGetInfo():
    return 1 << 36, 1 << 36
