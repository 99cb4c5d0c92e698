"""What a function raises, as an error of its own call that ends nothing else."""

from __future__ import annotations

import asyncio
import traceback
from typing import NoReturn

from iii_state.errors import Code, FunctionError, words

LAST_WORDS_SECONDS = 0.1
"""A program that a function ends (`sys.exit`) goes on for so long: its calls are answered first."""


def as_function_error(error: BaseException) -> FunctionError:
    """What reaches a caller of something that a function raised: its own code, else `invocation_failed` with the stack."""
    if isinstance(error, FunctionError):
        return error
    return FunctionError(Code.INVOCATION_FAILED, words(error), "".join(traceback.format_exception(error)))


def contained(error: BaseException) -> FunctionError:
    """What reaches a caller of whatever a function raised, which goes no further than this call.

    Only the end of the program (`SystemExit`, `KeyboardInterrupt`) does, as everywhere in Python, once the call has been answered.
    """
    if isinstance(error, SystemExit | KeyboardInterrupt):
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, _end, error)
    return as_function_error(error)


def _end(error: BaseException) -> NoReturn:
    raise error
