"""Runs the command lines of `sys.argv[1]`, a JSON list, in one process; prints a line of JSON for each.

It has the exit code, what was said, and which of the packages of `sys.argv[2:]` are imported by then.
"""

import contextlib
import io
import json
import sys

from shibolet import cli

commands, packages = json.loads(sys.argv[1]), sys.argv[2:]
for command in commands:
    sys.argv = ["shibolet", *command]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    heavy = [name for name in packages if name in sys.modules]
    print(json.dumps({"code": code, "said": said.getvalue(), "heavy": heavy}), flush=True)
