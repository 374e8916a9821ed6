"""The parts of the Stripe gateway: the wire, what is read, deliveries, and Stripe's objects in our words."""
