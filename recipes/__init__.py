"""The command line and what it runs; nothing else imports this package."""
