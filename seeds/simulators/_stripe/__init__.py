"""The parts of the Stripe simulator: wire, books, shapes, billing, pages, endpoints, builders, contract."""
