"""The merchant's side: Settings > Customer Portal, on its own host."""
