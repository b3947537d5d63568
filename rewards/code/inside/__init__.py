"""Files that run inside the sandbox alone: tests that are scripts in one process, the program in another."""
