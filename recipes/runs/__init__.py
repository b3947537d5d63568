"""What every command that runs something shares: its folder and configuration, processes, engine, context, evaluation.

Nothing here knows of a command.
"""
