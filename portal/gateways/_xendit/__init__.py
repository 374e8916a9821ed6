"""The parts of the Xendit gateway: what is asked of its API, and its objects in our words."""
