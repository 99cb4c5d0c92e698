"""What an operator should know of a store or an engine: each finding with what it means, and what to do."""
