#!/usr/bin/env python3
"""The last of a gateway's processes: an HTTP/1.1 server that takes its time for every answer.

On SIGTERM it ends at once and takes its requests with it, as many servers do. Into a journal, a JSON object per line, it
writes when it started, every request that it served, and when it was told to stop and which processes of its gateway
were alive then. `ebb_e2e::gateway::journal` reads it.
"""

import argparse
import http.server
import json
import os
import random
import signal
import threading
import time

class Journal:
    def __init__(self, path, who):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.who = who

    def note(self, what, **more):
        line = json.dumps({"at": time.monotonic_ns(), "who": self.who, "what": what, **more})
        # In one write, so that lines of several processes stay whole.
        os.write(self.file, line.encode() + b"\n")


def alive():
    """The names of the gateway's living processes, each once."""
    gateway = f"EBB_TEST_GATEWAY={os.environ.get('EBB_TEST_GATEWAY', '')}".encode()
    names = set()
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if gateway in variables:
            names.update(v.partition(b"=")[2].decode() for v in variables if v.startswith(b"EBB_TEST_PROCESS="))
    return sorted(names)


class Executor(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, options, journal):
        host, port = options.listen.rsplit(":", 1)
        super().__init__((host, int(port)), Handler)
        self.options, self.journal = options, journal
        self.random = random.Random(port)
        self.in_flight, self.lock = 0, threading.Lock()

    def work(self):
        """Takes its time: mostly short, now and then long, or until the file `hold` is removed."""
        options = self.options
        if options.hold:
            self.journal.note("held")
            while os.path.exists(options.hold):
                time.sleep(0.01)
        long = options.long_one_of and self.random.randrange(options.long_one_of) == 0
        milliseconds = options.long if long else self.random.uniform(options.shortest, options.short)
        time.sleep(milliseconds / 1000)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server, began = self.server, time.monotonic_ns()
        with server.lock:
            server.in_flight += 1
        server.work()
        # In one write: the head is all there is.
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        with server.lock:
            server.in_flight -= 1
        server.journal.note("served", began=began, status=200)


def fork(who, journal_path, orphan=False):
    """A child in this process group that lives until it is told to stop; orphaned, one whose parent has gone."""
    if os.fork() == 0:
        if orphan and os.fork() != 0:
            os._exit(0)
        journal = Journal(journal_path, who)

        def stop(*_):
            journal.note("term", in_flight=0, alive=alive())
            os._exit(0)

        signal.signal(signal.SIGTERM, stop)
        journal.note("start")
        while True:
            signal.pause()
    elif orphan:
        os.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="host:port")
    parser.add_argument("--journal", required=True)
    parser.add_argument("--shortest", type=float, default=0, help="milliseconds")
    parser.add_argument("--short", type=float, default=0, help="the longest of the short answers, in milliseconds")
    parser.add_argument("--long", type=float, default=0, help="milliseconds")
    parser.add_argument("--long-one-of", type=int, default=0, help="of so many answers one is long; 0 = none")
    parser.add_argument("--hold", help="a file: while it is there, answers wait")
    parser.add_argument("--forks", action="store_true", help="have a child and an orphan, which are told to stop as well")
    options = parser.parse_args()
    journal = Journal(options.journal, "python-executor")
    executor = Executor(options, journal)
    if options.forks:
        fork("worker", options.journal)
        fork("orphan", options.journal, orphan=True)

    def stop(*_):
        journal.note("term", in_flight=executor.in_flight, alive=alive())
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    journal.note("start")
    executor.serve_forever()


if __name__ == "__main__":
    main()
