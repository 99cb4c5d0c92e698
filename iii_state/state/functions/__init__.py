"""The functions of the state module: values, pages of a scope, what other engines ask for, and what operators do."""
