"""Buttons, webhooks, time, errors of processors and deaths of processes, in orders that Hypothesis makes up: nothing is
called twice, lost, or shown otherwise than it was last told. The full size is `python -m bench.machine`."""

from bench import machine


def test_whatever_happens_in_whatever_order_the_promises_hold() -> None:
    machine.run(examples=25, steps=30)
