"""How a command line ends: errors as text on stderr, as JSON where that was asked for, and the exit code.

Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 validation, 4 not found, 5 backend, 6 job failed,
130 interrupted.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from skillbank.errors import BackendError, SkillBankError, UsageError
from skillbank_runners.cli.argv import flag_values
from skillbank_runners.cli.output import paint, plain, talk
from skillbank_runners.cli.pipes import BROKEN_PIPE, drop_stdout, told_of_stdout

__all__ = ["guarded", "report"]

INTERRUPTED = 130


def report(err: SkillBankError, *, as_json: bool) -> int:
    """Tell the error on stderr and give its exit code; with `as_json` its last line is one JSON object."""
    talk(paint("error: ", "red", sys.stderr) + err.message)
    if err.hint and err.hint not in err.message:
        talk(paint("hint: ", "yellow", sys.stderr) + err.hint)
    if as_json:
        fields = {**err.to_dict(), "exit_code": err.exit_code}
        talk(json.dumps({"error": plain(fields)}, ensure_ascii=False, default=str))
    return err.exit_code


def guarded(body: Callable[[], int], argv: Sequence[str], program: str) -> int:
    """Run a command line; every way it can end becomes an exit code, and no traceback reaches the user.

    Args:
        body: returns the exit code.
        argv: words behind the executable, for ``-o json`` and ``--debug``.
    """
    as_json = "json" in flag_values(argv, "-o", "--output")
    debug = bool(os.environ.get("SKILLBANK_DEBUG"))
    try:
        code = body()
        with told_of_stdout():
            sys.stdout.flush()
        return code
    except SkillBankError as err:
        if debug:
            traceback.print_exc()
        return report(err, as_json=as_json)
    except KeyboardInterrupt:
        talk("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    except OSError as err:
        if debug:
            traceback.print_exc()
        return report(_refused(err, program), as_json=as_json)
    except Exception as err:  # noqa: BLE001 - the edge of the process: becomes one line and a log file
        if debug:
            traceback.print_exc()
        return report(_bug(err, argv, program), as_json=as_json)


def _refused(err: OSError, program: str) -> SkillBankError:
    """What the system refused, with a way out where one is known."""
    from skillbank_runners.failures import refusal

    where = f"{err.filename}: " if err.filename else ""
    general = BackendError(
        f"{program}: {where}{err.strerror or err}", hint="repeat with --debug to see where it happened"
    )
    return refusal(err, program) or general


def _without_secrets(text: str, argv: Sequence[str]) -> str:
    from skillbank.jobs.redact import scrub, secret_values

    return str(scrub(text, secret_values(os.environ, *flag_values(argv, "--encryption-key"))))


def _bug(err: Exception, argv: Sequence[str], program: str) -> SkillBankError:
    """Our own mistake: one line for the user, everything else in a file."""
    from skillbank import __version__
    from skillbank.bank import home

    text = _without_secrets(
        f"{program} {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"argv: {list(argv)}\n\n{''.join(traceback.format_exception(err))}",
        argv,
    )
    name = f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    for folder in (home() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = folder / name
            log.write_text(text, encoding="utf-8")
            where = f"details are in {log}"
            break
        except OSError:
            continue
    else:
        where = "repeat with --debug to see the details"
    first = _without_secrets(str(err).strip().splitlines()[0] if str(err).strip() else "", argv)
    return SkillBankError(
        f"{program}: unexpected {type(err).__name__}: {first}; {where}",
        hint="this is a bug of the program; please report it with that file",
    )


def usage_error(message: str, where: str) -> UsageError:
    """A complaint of the option parser in our own form."""
    return UsageError(f"{where}: {message.rstrip('.')}", hint=f"{where} --help")
