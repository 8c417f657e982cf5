"""SIGTERM and SIGINT become a request: the iteration is finished and a snapshot written before the process leaves."""
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalWatch:
    """A context in which SIGINT and SIGTERM set ``received`` (a signal.Signals, else None) instead of ending things.

    A second one raises KeyboardInterrupt at once. Outside the main thread, where Python takes no signals, it does
    nothing. ``speaks``: whether it says what it will do.
    """

    def __init__(self, speaks=True):
        self.speaks = speaks
        self.received = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self.speaks:
            print(f"\n{self.received.name}: finishing this iteration, then a snapshot; once more to leave at once",
                  file=sys.stderr)
