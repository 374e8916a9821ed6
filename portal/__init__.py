"""A self-hosted customer portal over several payment processors."""
