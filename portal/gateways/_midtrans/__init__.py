"""The parts of the Midtrans adapter."""
