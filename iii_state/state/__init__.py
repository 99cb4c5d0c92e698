"""The state module: functions, triggers and their dispatcher, over any adapter."""
