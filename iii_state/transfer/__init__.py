"""Moving data between stores: exports, imports, and what a stock engine has left in files."""
