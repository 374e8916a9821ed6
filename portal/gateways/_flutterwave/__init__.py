"""Parts of the Flutterwave adapter: its calls, the fields it reads, its records, and the joining of charges."""
