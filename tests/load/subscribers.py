"""What subscribers of events cost a mount: memory, and the time of a commit. Run by `scripts/suite subscribers`.

    subscribers.py MOUNT STATE NUMBER

Times with and without subscribers are taken in turns within one run: their ratio says something on any machine, and
is printed, not judged. Ends with status 1 if the subscribers take 50 MiB or more, or if one of them misses an event."""
import json
import os
import re
import socket
import statistics
import sys
import time

MNT, STATE, MANY = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROUNDS, COMMITS = 8, 300


def ask(target, version):
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(60)
    stream.connect(f"{STATE}/http.sock")
    stream.sendall(f"GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    return stream


def status():
    stream, text = ask("/v1/status", "1.0"), b""
    while piece := stream.recv(65536):
        text += piece
    return json.loads(text.split(b"\r\n\r\n", 1)[1])


PID = status()["pid"]


def memory():
    with open(f"/proc/{PID}/status") as lines:
        return int(re.search(r"VmRSS:\s+(\d+)", lines.read())[1])


class Crowd:
    """Subscribers in a process of their own: a close looks at all descriptors of whoever closes."""

    def __init__(self, query):
        (told, tell), (asked, self.ask) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.ask)
            deaf = MANY
            try:
                streams = [ask(f"/v1/events?{query}", "1.1") for _ in range(MANY)]
                for stream in streams:
                    while b"retry:" not in stream.recv(4096):
                        pass
                os.write(tell, b"x")
                deaf = sum(not heard(stream) for stream in streams) if os.read(asked, 1) == b"?" else 0
            finally:
                os._exit(min(deaf, 1))
        os.close(asked)
        os.close(tell)
        assert os.read(told, 1) == b"x", "they could not subscribe"
        os.close(told)

    def leave(self, told_of=False):
        """Whether all of them were told of a commit, if that is asked."""
        if told_of:
            os.write(self.ask, b"?")
        os.close(self.ask)
        _, status_of = os.waitpid(self.pid, 0)
        while status()["subscribers"]:
            time.sleep(0.01)
        return status_of == 0


def heard(stream):
    text = b""
    while b"event: committed" not in text:
        piece = stream.recv(65536)
        if not piece:
            return False
        text += piece
    return True


def commits(times):
    for n in range(COMMITS):
        began = time.perf_counter()
        fd = os.open(f"{MNT}/f{n % 50}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, b"content")
        os.close(fd)
        times.append(time.perf_counter() - began)


before = memory()
crowd = Crowd("kind=mismatch")
used = memory() - before
print(f"memory: {before} kB without, {used} kB more with {MANY} subscribers", flush=True)
crowd.leave()

without, idle = [], []
for _ in range(ROUNDS):
    # What coming and going costs is not what is asked.
    commits([])
    commits(without)
    crowd = Crowd("kind=mismatch")
    commits([])
    commits(idle)
    crowd.leave()
for name, times in ("without", without), ("with", idle):
    times.sort()
    print(f"{name:>8}: median {1e3 * statistics.median(times):.3f} ms, p99 {1e3 * times[len(times) * 99 // 100]:.3f} ms")
print(f"ratio of the medians: {statistics.median(idle) / statistics.median(without):.3f}")

# They are idle, not deaf: one event that all of them want.
crowd = Crowd("kind=committed&path=/for-all")
with open(f"{MNT}/for-all", "w") as file:
    file.write("x")
all_heard = crowd.leave(told_of=True)
print("all were told of a commit" if all_heard else "not all were told of a commit")
sys.exit(not all_heard or used >= 50 << 10)
