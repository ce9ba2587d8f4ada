"""Counts checks, prints the failed ones, and ends with the line `N passed, M failed`. Knows no API."""

import sys

passed = failed = 0


def check(title, actual, expected):
    """Checks that `actual` equals `expected`. `title` says what is checked."""
    global passed, failed
    if actual == expected:
        passed += 1
    else:
        failed += 1
        print(f"FAILED python: {title}: expected {expected!r}; got {actual!r}", flush=True)


def attempt(title, run):
    """Calls `run`, and counts an exception as a failed check."""
    try:
        run()
    except Exception as error:
        check(title, f"{type(error).__name__}: {error}", "no exception")


def raises(title, kind, run, **fields):
    """Checks that `run` raises an exception of exactly this type, with these fields."""
    try:
        check(title, run(), kind.__name__)
    except Exception as error:
        check(title, type(error).__name__, kind.__name__)
        check(f"{title}: fields", {name: getattr(error, name, None) for name in fields}, fields)


def end():
    """Prints the counts and exits. Fails also if there was no check."""
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)
