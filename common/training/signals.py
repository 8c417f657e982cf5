"""SIGTERM, SIGINT and SIGHUP become a request: what is under way is finished and kept before the process leaves."""
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none; nohup has it ignored


class SignalWatch:
    """A context in which SIGINT, SIGTERM and SIGHUP set ``received`` (a signal.Signals, else None) and end nothing.

    A second one raises KeyboardInterrupt at once. Outside the main thread, where Python takes no signals, it does
    nothing. ``speaks``: whether it says what it will do; ``plan``: that, in words.
    """

    def __init__(self, speaks=True, plan="finishing this iteration, then a snapshot"):
        self.speaks, self.plan = speaks, plan
        self.received = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            hangup = HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN
            self._before = {number: signal.signal(number, self._note)
                            for number in (*SIGNALS, *([HANGUP] if hangup else []))}
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
            print(f"\n{self.received.name}: {self.plan}; once more to leave at once", file=sys.stderr)
