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


def subscribe(query):
    streams = [ask(f"/v1/events?{query}", "1.1") for _ in range(MANY)]
    for stream in streams:
        while b"retry:" not in stream.recv(4096):
            pass
    return streams


def leave(streams):
    for stream in streams:
        stream.close()
    while status()["subscribers"]:
        time.sleep(0.01)


def commits(times):
    for n in range(COMMITS):
        began = time.perf_counter()
        fd = os.open(f"{MNT}/f{n % 50}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, b"content")
        os.close(fd)
        times.append(time.perf_counter() - began)


before = memory()
streams = subscribe("kind=mismatch")
used = memory() - before
print(f"memory: {before} kB without, {used} kB more with {MANY} subscribers")
leave(streams)

without, idle = [], []
commits([])
for _ in range(ROUNDS):
    commits(without)
    streams = subscribe("kind=mismatch")
    commits(idle)
    leave(streams)
for name, times in ("without", without), ("with", idle):
    times.sort()
    print(f"{name:>8}: median {1e3 * statistics.median(times):.3f} ms, p99 {1e3 * times[len(times) * 99 // 100]:.3f} ms")
ratio = statistics.median(idle) / statistics.median(without)
print(f"ratio of the medians: {ratio:.3f}")

# They are idle, not deaf: one event that all of them want.
streams = subscribe("kind=committed&path=/for-all")
with open(f"{MNT}/for-all", "w") as file:
    file.write("x")
deaf = 0
for stream in streams:
    text = b""
    while b"event: committed" not in text:
        piece = stream.recv(65536)
        if not piece:
            deaf += 1
            break
        text += piece
leave(streams)
print(f"{MANY - deaf} of {MANY} were told of a commit")
sys.exit(deaf > 0 or used >= 50 << 10)
