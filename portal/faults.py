"""What a log may say of a fault: where in the code it happened, and not the message, in which a value of a row may
stand."""

import traceback


def places(error: Exception) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return [
        f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}" for frame in frames
    ]
