"""Stand-ins that speak a processor's wire format, written from the processors' documents. Never imports portal."""
