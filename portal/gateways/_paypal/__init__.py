"""PayPal in parts: how it is asked, how its deliveries are proved, and what it says in our words."""
