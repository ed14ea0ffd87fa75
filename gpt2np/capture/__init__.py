"""Capture files of many prompts (document 001), and captures at scale: `open_capture` reads these."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2np.capture.captured import Captured as Captured
    from gpt2np.capture.captured import open_capture as open_capture

__all__ = ["Captured", "open_capture"]

if not TYPE_CHECKING:  # for which a name that is not there is a mistake

    def __getattr__(name: str) -> object:
        """What is imported when it is first used: starting fast is a feature."""
        if name not in __all__:
            raise AttributeError(f"module 'gpt2np.capture' has no attribute {name!r}")
        from gpt2np.capture import captured

        return getattr(captured, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
