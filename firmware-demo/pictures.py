#!/usr/bin/env python3
"""Takes a picture of a board's screen: pictures.py BOARD PROGRAM LINE OUT.png

Waits until the program prints a line that begins with LINE, and asks QEMU's monitor for the screen.
"""
import os, pathlib, signal, socket, subprocess, sys, tempfile, threading, time

# Seconds after which a program that prints no such line is given up.
PATIENCE = 600

board, program, line, out = sys.argv[1:]
here = pathlib.Path(__file__).parent
with tempfile.TemporaryDirectory() as folder:
    door = os.path.join(folder, "monitor")
    more = ["-device", "ramfb"] if program == "screen" else []
    qemu = subprocess.Popen(
        [here / "run.sh", board, program, *more],
        env=dict(os.environ, MONITOR=f"unix:{door},server,nowait"), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )

    def end():
        """Ends run.sh and QEMU with it."""
        try:
            os.killpg(qemu.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    watch = threading.Timer(PATIENCE, end)
    watch.daemon = True
    watch.start()
    try:
        for printed in qemu.stdout:
            print(printed, end="")
            if printed.startswith(line):
                break
        else:
            sys.exit(f"error: {program} ended without {line}")
        monitor = socket.socket(socket.AF_UNIX)
        monitor.connect(door)
        shot = pathlib.Path(folder, "shot.png")
        monitor.sendall(f"stop\nscreendump {shot} -f png\n".encode())
        until = time.monotonic() + 20
        while not (shot.exists() and shot.stat().st_size):
            if time.monotonic() > until:
                sys.exit(f"error: QEMU gives no picture of {board}'s screen")
            time.sleep(0.2)
        time.sleep(0.5)
        pathlib.Path(out).write_bytes(shot.read_bytes())
    finally:
        end()
