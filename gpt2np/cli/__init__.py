"""The command line: `gpt2np VERB`."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Ctrl-C ends it without a traceback, also while it starts."""
    interrupted: list[bool] = []
    try:
        import signal

        # An interrupt inside NumPy's own start would come out as an ImportError, so it waits for its end.
        before = signal.getsignal(signal.SIGINT)
        waits = before is signal.default_int_handler and _is_main_thread()

        def ready() -> None:
            if waits:
                signal.signal(signal.SIGINT, before)
            if interrupted:
                raise KeyboardInterrupt

        if waits:
            signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
        try:
            from gpt2np.cli.program import main as run

            return run(argv, ready)
        finally:
            if waits:
                signal.signal(signal.SIGINT, before)
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        exec("")  # else Python, once one has passed through any exec, ends with its signal and not with 130
        return 130


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether a Ctrl-C is behind an error: one in the making of a class comes as a RuntimeError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
