"""Stands in for crosvm: `run SOCKET SHOWN` is a VM, `suspend|resume --full SOCKET` its client.

Source: crosvm's src/main.rs (vms_request) and base's UnixSeqpacket: one packet a request, and one
an answer.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import sys
import threading
import time

PAGE = 4096
PR_SET_PDEATHSIG = 1
SIZE = 32 << 20


def name_thread(name: str) -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(name)


def run(path: str, shown: str) -> None:
    """Serves until stdin ends; a child is a sandboxed device, told to write by SHOWN.device."""
    fd = os.memfd_create("crosvm_guest")
    os.ftruncate(fd, SIZE)
    ram = mmap.mmap(fd, SIZE)
    for page in range(1, SIZE // PAGE, 2):
        ram[page * PAGE] = 1
    parent, fifo = os.getpid(), f"{shown}.device"
    os.mkfifo(fifo)
    if not os.fork():
        told = os.open(fifo, os.O_RDWR)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        while os.getppid() == parent and os.read(told, 1):
            ram[2 * PAGE] = 1
        os._exit(0)
    change = threading.Condition()
    state = {"runs": True, "rounds": 0, "out": 2}

    def vcpu(number: int) -> None:
        name_thread(f"crosvm_vcpu{number}")
        while True:
            with change:
                state["out"] -= 1
                change.notify_all()
                change.wait_for(lambda: state["runs"])
                state["out"] += 1
            state["rounds"] += 1
            with open(shown, "w") as file:
                file.write(f"{state['rounds']}\n")
            time.sleep(0.001)

    for number in range(2):
        threading.Thread(target=vcpu, args=(number,), daemon=True).start()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client:
                asked = client.recv(100)
                if asked:
                    with change:
                        state["runs"] = asked == b"ResumeVm"
                        change.notify_all()
                        change.wait_for(lambda: state["runs"] or not state["out"])
                    with open(f"{shown}.state", "w") as file:
                        file.write("runs" if state["runs"] else "suspended")
                    client.send(b"ok")

    threading.Thread(target=serve, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


def request(command: str, path: str) -> None:
    """One request, as the program crosvm sends it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(path)
        client.send({"suspend": b"SuspendVm", "resume": b"ResumeVm"}[command])
        if client.recv(100) != b"ok":
            sys.exit("request failed")


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], sys.argv[3])
    else:
        assert sys.argv[2] == "--full"
        request(sys.argv[1], sys.argv[3])
