"""Counts cases, tells of those that fail, and ends with `N passed, M failed`."""

import sys

passed = failed = 0


def check(case, saw, expected):
    global passed, failed
    if saw == expected:
        passed += 1
    else:
        failed += 1
        print(f"FAILED python: {case}: expected {expected!r}; saw {saw!r}", flush=True)


def attempt(case, run):
    """Counts an exception that nobody expects as a failure."""
    try:
        run()
    except Exception as error:
        check(case, f"{type(error).__name__}: {error}", "no exception")


def raises(case, kind, run, **fields):
    """Expects an exception of exactly this type, with these fields."""
    try:
        check(case, run(), kind.__name__)
    except Exception as error:
        check(case, type(error).__name__, kind.__name__)
        check(f"{case}, fields", {name: getattr(error, name, None) for name in fields}, fields)


def end():
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)
