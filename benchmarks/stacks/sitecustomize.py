"""Writes the stacks of every Python process every 50 ms, where STACKS_FOLDER is set; `round_watch.py` reads them.

`PID.stacks`: lines "= id frame;frame;..." from the outermost in, and "seconds id id ...": seconds since 1970, then the
stacks of the main thread and of all others.
"""

import os
import sys
import threading
import time
from types import CodeType

EVERY_S = 0.05


def _watch(folder: str, main: int) -> None:
    names: dict[CodeType, str] = {}
    known: dict[tuple[CodeType, ...], int] = {}
    with open(os.path.join(folder, f"{os.getpid()}.stacks"), "w", encoding="utf-8") as file:

        def number(frame) -> str:
            codes = []
            while frame is not None:
                codes.append(frame.f_code)
                frame = frame.f_back
            stack = tuple(reversed(codes))
            if stack not in known:
                known[stack] = len(known)
                for code in stack:
                    names.setdefault(code, f"{'/'.join(code.co_filename.split('/')[-3:])}:{code.co_name}")
                file.write(f"= {known[stack]} {';'.join(names[code] for code in stack)}\n")
            return str(known[stack])

        while True:
            frames, own = sys._current_frames(), threading.get_ident()
            first = frames.pop(main, None)
            others = [number(frame) for thread, frame in frames.items() if thread != own]
            file.write(f"{time.time():.3f} {' '.join([number(first), *others])}\n")
            file.flush()
            time.sleep(EVERY_S)


if folder := os.environ.get("STACKS_FOLDER"):
    threading.Thread(target=_watch, args=(folder, threading.main_thread().ident), daemon=True).start()
