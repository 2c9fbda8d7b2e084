# SPDX-License-Identifier: Apache-2.0
"""Children of a GPU check: each runs in a session of its own under a time limit, with everything it
says in the log; past the limit it ends together with what it started."""

import os
import signal
import subprocess
import time


class Out:
    """The end of a child. status: its exit code, negative for a signal, None past its limit."""

    def __init__(self, status, text, seconds):
        self.status, self.text, self.seconds = status, text, seconds

    @property
    def last(self):
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


class Children:
    def __init__(self, log_path, deadline):
        self.log_path, self.deadline = log_path, deadline

    def left(self):
        """Seconds of the whole check that are left."""
        return self.deadline - time.monotonic()

    def log(self, text):
        with open(self.log_path, "a", encoding="utf-8", errors="replace") as file:
            file.write(text.rstrip("\n") + "\n")

    def run(self, command, limit, env=None, cwd=None):
        command = [str(part) for part in command]
        limit = max(1.0, min(limit, self.left()))
        self.log(f"\n$ {' '.join(command)}   (at most {limit:.0f} s)")
        begin = time.monotonic()
        try:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
                errors="replace", stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **(env or {})},
            )  # fmt: skip
        except OSError as error:
            self.log(f"= not started: {error.strerror}")
            return Out(127, error.strerror, 0.0)
        try:
            text, _ = child.communicate(timeout=limit)
            status = child.returncode
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            text, _ = child.communicate()
            status = None
        seconds = time.monotonic() - begin
        self.log(text)
        self.log(f"= {'past its limit' if status is None else f'status {status}'}, {seconds:.1f} s")
        return Out(status, text, seconds)
